//! Known bugs of the field, put back one at a time to see that the tests notice.
//!
//! A site reads `if mutant::on("its_name")` and does there what the bug did. Without the feature `mutants` the answer is
//! the constant `false` and nothing of it is left in the program. With it, the environment variable `ETCORE_MUTANT` names
//! the one bug that is there. `docs/MUTANTS.md` lists them all, `scripts/mutants` runs them.

/// Whether this bug is to be there.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn on(_name: &str) -> bool {
    false
}

/// Whether this bug is to be there.
#[cfg(feature = "mutants")]
pub fn on(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("ETCORE_MUTANT").unwrap_or_default());
    chosen == name
}

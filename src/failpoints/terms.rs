//! What happens at a point: a chain of terms, of which the first that may acts.
//!
//! ```text
//! terms  = term { "->" term }
//! term   = { number "%" | count "*" } action [ "(" [ value ] ")" ]
//! action = "off" | "panic" | "sleep" | "return" | "print" | "break"
//! value  = integer | "text" | true | false
//! ```
//!
//! `2*sleep(50)->1*panic("now")` waits twice and ends the process at the third time. `sleep` takes milliseconds or a
//! duration such as `"1.5s"`. `break`, which waits for a debugger in gofail, is `off`.
//!
//! Source: gofail's doc/design.md, section "Gofail Term".

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::go_value::parse_duration_ns;

/// What a term does.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Nothing.
    Off,
    /// Ends the process.
    Panic(Option<String>),
    /// Waits.
    Sleep(Duration),
    /// Leaves out what stands behind the point. Values are read and mean nothing: no point has a use for one.
    Return,
    /// Says that the point was reached.
    Print,
}

#[derive(Clone, PartialEq, Debug)]
enum Condition {
    /// So many times.
    Times(u64),
    /// So often in a hundred.
    Percent(f64),
}

#[derive(Clone, PartialEq, Debug)]
struct Term {
    conditions: Vec<Condition>,
    action: Action,
}

/// The terms of one point.
#[derive(Debug)]
pub struct Terms {
    text: String,
    chain: Vec<Term>,
    count: u64,
    dice: u64,
}

impl Terms {
    /// Reads terms; nothing when they make no sense.
    pub fn parse(text: &str) -> Option<Terms> {
        let text = text.trim();
        let mut rest = text;
        let mut chain = vec![parse_term(&mut rest)?];
        while !rest.is_empty() {
            rest = rest.strip_prefix("->")?;
            chain.push(parse_term(&mut rest)?);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Some(Terms {
            text: text.to_owned(),
            chain,
            count: 0,
            dice: now.map_or(1, |now| now.as_nanos() as u64),
        })
    }

    /// As they were given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How often one of them acted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The point was reached: what to do, if anything.
    pub fn next(&mut self) -> Option<Action> {
        for term in &mut self.chain {
            if term
                .conditions
                .iter_mut()
                .all(|condition| condition.allows(&mut self.dice))
            {
                self.count += 1;
                return Some(term.action.clone());
            }
        }
        None
    }
}

impl Condition {
    fn allows(&mut self, dice: &mut u64) -> bool {
        match self {
            Condition::Times(0) => false,
            Condition::Times(left) => {
                *left -= 1;
                true
            }
            Condition::Percent(percent) => {
                // xorshift: which points act is all that hangs on it.
                *dice ^= *dice << 13;
                *dice ^= *dice >> 7;
                *dice ^= *dice << 17;
                (*dice >> 11) as f64 / (1_u64 << 53) as f64 * 100.0 < *percent
            }
        }
    }
}

fn parse_term(rest: &mut &str) -> Option<Term> {
    let mut conditions = Vec::new();
    loop {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        if digits == 0 {
            break;
        }
        let (number, behind) = rest.split_at(digits);
        conditions.push(match behind.chars().next()? {
            '%' => Condition::Percent(number.parse().ok()?),
            '*' => Condition::Times(number.parse().ok()?),
            _ => return None,
        });
        *rest = &behind[1..];
    }
    let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (name, behind) = rest.split_at(letters);
    *rest = behind;
    let value = parse_value(rest)?;
    let action = match (name, value) {
        ("off" | "break", _) => Action::Off,
        ("panic", Value::None) => Action::Panic(None),
        ("panic", Value::Text(text) | Value::Plain(text)) => Action::Panic(Some(text)),
        ("sleep", Value::Plain(ms)) => Action::Sleep(Duration::from_millis(ms.parse().ok()?)),
        ("sleep", Value::Text(text)) => {
            Action::Sleep(Duration::from_nanos(parse_duration_ns(&text).ok()?.try_into().ok()?))
        }
        ("return", _) => Action::Return,
        ("print", _) => Action::Print,
        _ => return None,
    };
    Some(Term { conditions, action })
}

enum Value {
    None,
    Text(String),
    /// A number or a boolean.
    Plain(String),
}

/// What stands in the brackets, if there are any.
fn parse_value(rest: &mut &str) -> Option<Value> {
    let Some(inside) = rest.strip_prefix('(') else {
        return Some(Value::None);
    };
    if let Some(quoted) = inside.strip_prefix('"') {
        let end = quoted.find('"')?;
        *rest = quoted[end + 1..].strip_prefix(')')?;
        return Some(Value::Text(quoted[..end].to_owned()));
    }
    let (value, behind) = inside.split_once(')')?;
    *rest = behind;
    let plain = value.parse::<i64>().is_ok() || value.parse::<bool>().is_ok();
    match value {
        "" => Some(Value::None),
        _ => plain.then(|| Value::Plain(value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(text: &str, times: usize) -> Vec<Option<Action>> {
        let mut terms = Terms::parse(text).unwrap_or_else(|| panic!("{text} is read"));
        (0..times).map(|_| terms.next()).collect()
    }

    #[test]
    fn each_action_is_read() {
        let panic = |text: &str| Some(Action::Panic(Some(text.to_owned())));
        for (text, wanted) in [
            ("off", Some(Action::Off)),
            ("break", Some(Action::Off)),
            ("panic", Some(Action::Panic(None))),
            ("panic()", Some(Action::Panic(None))),
            (r#"panic("a->b")"#, panic("a->b")),
            ("sleep(100)", Some(Action::Sleep(Duration::from_millis(100)))),
            (r#"sleep("1.5s")"#, Some(Action::Sleep(Duration::from_millis(1500)))),
            ("return", Some(Action::Return)),
            (r#"return("x")"#, Some(Action::Return)),
            ("return(true)", Some(Action::Return)),
            ("print", Some(Action::Print)),
        ] {
            assert_eq!(actions(text, 1), [wanted], "{text}");
        }
    }

    #[test]
    fn counts_run_out_and_the_next_term_takes_over() {
        let sleep = Some(Action::Sleep(Duration::from_millis(1)));
        let wanted = [sleep.clone(), sleep, Some(Action::Return), None];
        assert_eq!(actions("2*sleep(1)->1*return", 4), wanted);
    }

    #[test]
    fn percentages_hold_about() {
        let acted = actions("25.0%return", 10_000);
        let acted = acted.iter().filter(|action| action.is_some()).count();
        assert!((2000..3000).contains(&acted), "{acted} of 10000");
        assert!(actions("100%return", 100).iter().all(Option::is_some));
        assert!(actions("0%return", 100).iter().all(Option::is_none));
    }

    #[test]
    fn only_what_acted_is_counted() {
        let mut terms = Terms::parse("2*print").unwrap();
        (0..5).for_each(|_| drop(terms.next()));
        assert_eq!((terms.count(), terms.text()), (2, "2*print"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "nothing",
            "3*",
            "5",
            "panic(",
            "panic(\"x)",
            "sleep",
            "sleep(\"soon\")",
            "off->",
            "off-off",
            "1.5*off",
        ] {
            assert!(Terms::parse(text).is_none(), "{text:?}");
        }
    }
}

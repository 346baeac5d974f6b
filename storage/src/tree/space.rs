//! Who owns which page: free ones, those that wait for older roots, and the end of the used part.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{Ordering, fence},
    },
};

use raft::mutant;

use super::{Root, freelist::Freelist, page::Shared};

/// Pages of the file, as the newest durable root and the open commit leave them.
#[derive(Debug)]
pub(super) struct Space {
    shared: Arc<Shared>,
    free: Freelist,
    /// Freed by commit `txid`, ascending: reusable when no older root is held.
    pending: VecDeque<(u64, Vec<(u64, u32)>)>,
    pending_pages: u64,
    /// Older roots that may still be held.
    held: Vec<Held>,
    /// First page beyond the used part.
    end_page: u64,
    /// Taken by the open commit.
    taken: Vec<(u64, u32)>,
    /// `end_page` when it began.
    end_page_before: u64,
}

#[derive(Debug)]
struct Held {
    txid: u64,
    end_page: u64,
    root: Weak<Root>,
}

impl Space {
    pub fn new(shared: Arc<Shared>, free: Freelist, end_page: u64) -> Space {
        Space {
            shared,
            free,
            pending: VecDeque::new(),
            pending_pages: 0,
            held: Vec::new(),
            end_page,
            taken: Vec::new(),
            end_page_before: end_page,
        }
    }

    pub fn end_page(&self) -> u64 {
        self.end_page
    }

    pub fn free(&self) -> &Freelist {
        &self.free
    }

    pub fn pending_pages(&self) -> u64 {
        self.pending_pages
    }

    /// The runs that wait for older roots to be dropped.
    pub fn pending_runs(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.pending.iter().flat_map(|(_, runs)| runs.iter().copied())
    }

    /// A commit begins: what no held root can reach becomes free, and a free tail leaves the file.
    pub fn begin(&mut self, newest_txid: u64) {
        self.held.retain(|held| held.root.strong_count() > 0);
        // A reader's last look at a page happened before it dropped the root; so it does before we reuse the page.
        fence(Ordering::Acquire);
        let held = self
            .held
            .iter()
            .map(|held| held.txid)
            .filter(|_| !mutant::on("held_page_reused"));
        let oldest = held.min().unwrap_or(newest_txid);
        while self.pending.front().is_some_and(|&(txid, _)| txid <= oldest) {
            let (_, runs) = self.pending.pop_front().expect("just seen");
            for (page, pages) in runs {
                self.free.give(page, u64::from(pages));
                self.pending_pages -= u64::from(pages);
            }
        }
        if let Some(start) = self.free.take_tail(self.end_page) {
            self.end_page = start;
        }
        self.end_page_before = self.end_page;
    }

    /// Takes pages that lie together for the open commit, growing the used part when none are free.
    pub fn take(&mut self, pages: u32) -> u64 {
        let page = self.free.take(u64::from(pages)).unwrap_or_else(|| {
            let page = self.end_page;
            self.end_page += u64::from(pages);
            page
        });
        if !mutant::on("reused_page_not_checked") {
            self.shared.verified.clear(page);
        }
        self.taken.push((page, pages));
        page
    }

    /// The open commit is dropped: what it took is free again.
    pub fn abandon(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        for (page, pages) in taken {
            if page < self.end_page_before {
                self.free.give(page, u64::from(pages));
            }
        }
        self.end_page = self.end_page_before;
    }

    /// The open commit is durable: `old` may still be held, and what it alone reached waits for it.
    pub fn commit(&mut self, old: &Arc<Root>, txid: u64, freed: Vec<(u64, u32)>) {
        self.taken.clear();
        self.held.push(Held {
            txid: old.txid(),
            end_page: old.meta.end_page,
            root: Arc::downgrade(old),
        });
        self.pending_pages += freed.iter().map(|&(_, pages)| u64::from(pages)).sum::<u64>();
        if !freed.is_empty() {
            self.pending.push_back((txid, freed));
        }
    }

    /// First page beyond everything that a held root, or the open commit, reaches.
    pub fn reached_page(&self, newest: &Root) -> u64 {
        let held = self.held.iter().map(|held| held.end_page).max().unwrap_or(0);
        held.max(newest.meta.end_page).max(self.end_page)
    }
}

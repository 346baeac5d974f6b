//! The writer: a view streamed as a bbolt file, its size known before the first byte.

use std::collections::BTreeMap;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    format::PAGE_SIZE,
    pack::{BucketPacker, PageSink},
};
use crate::{
    buckets::{Bucket, meta},
    mvcc::{StoreError, StoreView},
};

/// Length of the SHA-256 behind a snapshot.
pub const TRAILER_LEN: usize = 32;

/// What to add to the file.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Rows of bucket `meta` that take the place of the view's (`confState` as JSON, `storageVersion`, ...).
    /// `consistent_index` and `term` are taken from the view's applied state unless they stand here.
    pub meta: Vec<(Vec<u8>, Vec<u8>)>,
    /// End the stream with the SHA-256 of all before it, as the `Snapshot` RPC does.
    pub trailer: bool,
}

/// A raft configuration to be written as etcd's JSON of `raftpb.ConfState`, the value of `meta/confState`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConfStateJson<'a> {
    /// Voters.
    pub voters: &'a [u64],
    /// Learners.
    pub learners: &'a [u64],
    /// Voters of the outgoing half of a joint configuration.
    pub voters_outgoing: &'a [u64],
    /// Voters that become learners when the joint configuration is left.
    pub learners_next: &'a [u64],
    /// The joint configuration is left by itself.
    pub auto_leave: bool,
}

impl ConfStateJson<'_> {
    /// The JSON: fields in etcd's order, empty lists left out.
    pub fn encode(&self) -> Vec<u8> {
        let lists = [
            ("voters", self.voters),
            ("learners", self.learners),
            ("voters_outgoing", self.voters_outgoing),
            ("learners_next", self.learners_next),
        ];
        let mut out = String::from("{");
        for (name, ids) in lists.into_iter().filter(|(_, ids)| !ids.is_empty()) {
            let ids: Vec<_> = ids.iter().map(u64::to_string).collect();
            out += &format!("\"{name}\":[{}],", ids.join(","));
        }
        out += &format!("\"auto_leave\":{}}}", self.auto_leave);
        out.into_bytes()
    }
}

/// A view being written as a bbolt file: plan to the end, then emit. Holds its view until dropped.
pub struct Export {
    view: StoreView,
    options: ExportOptions,
    pass: Pass,
    /// The pages of the file and the page of its root, once planned.
    layout: Option<(u64, u64)>,
    hash: Sha256,
    /// The emitting pass has ended.
    packed: bool,
    trailer_due: bool,
}

/// One walk over all rows, for planning and again for emitting.
struct Pass {
    sink: PageSink,
    root: BucketPacker,
    bucket: BucketPacker,
    /// Place in [`Bucket::ALL`].
    at: usize,
    next: Vec<u8>,
}

impl Export {
    /// Starts an export of `view`.
    pub fn new(view: StoreView, options: ExportOptions) -> Export {
        let trailer_due = options.trailer;
        let pass = Pass::new(PageSink::counting());
        Export {
            view,
            options,
            pass,
            layout: None,
            hash: Sha256::new(),
            packed: false,
            trailer_due,
        }
    }

    /// Lays out about `budget` bytes more; true when the layout is known.
    pub fn plan(&mut self, budget: usize) -> Result<bool, StoreError> {
        if self.layout.is_none()
            && let Some(root) = self.pass.step(&self.view, &self.options, budget, usize::MAX)?
        {
            let pages = self.pass.sink.pages();
            self.layout = Some((pages, root));
            self.pass = Pass::new(PageSink::writing(root, pages));
        }
        Ok(self.layout.is_some())
    }

    /// Size of the whole stream in bytes, trailer included.
    ///
    /// Order: after [`Export::plan`] answered true; panics before.
    pub fn total_bytes(&self) -> u64 {
        let (pages, _) = self.layout.expect("the size is known when plan() has answered true");
        pages * PAGE_SIZE as u64 + if self.options.trailer { TRAILER_LEN as u64 } else { 0 }
    }

    /// The next piece of the stream, about `budget` bytes; nothing at the end.
    ///
    /// Order: after [`Export::plan`] answered true; panics before.
    pub fn next_piece(&mut self, budget: usize) -> Result<Option<Bytes>, StoreError> {
        let layout = self.layout.expect("pieces come when plan() has answered true");
        while !self.packed && self.pass.sink.waiting() < budget.max(1) {
            if let Some(root) = self.pass.step(&self.view, &self.options, budget, budget)? {
                assert_eq!((self.pass.sink.pages(), root), layout, "both passes see the same rows");
                self.packed = true;
            }
        }
        let piece = self.pass.sink.take();
        if !piece.is_empty() {
            self.hash.update(&piece);
            return Ok(Some(piece.into()));
        }
        let trailer = std::mem::take(&mut self.trailer_due);
        Ok(trailer.then(|| Bytes::copy_from_slice(&self.hash.clone().finalize())))
    }
}

impl Pass {
    fn new(sink: PageSink) -> Pass {
        Pass {
            sink,
            root: BucketPacker::new(),
            bucket: BucketPacker::new(),
            at: 0,
            next: Vec::new(),
        }
    }

    /// Packs rows until about `budget` bytes of them are seen or `waiting` bytes of pages wait; the root's page at the
    /// end.
    fn step(
        &mut self,
        view: &StoreView,
        options: &ExportOptions,
        budget: usize,
        waiting: usize,
    ) -> Result<Option<u64>, StoreError> {
        let mut bytes = 0;
        while let Some(bucket) = Bucket::ALL.get(self.at).copied() {
            if bucket == Bucket::Meta {
                for (key, value) in meta_rows(view, options)? {
                    self.bucket.push(&mut self.sink, &key, &value);
                }
            } else {
                let mut rows = view.rows(bucket, &self.next)?;
                while let Some((key, value)) = rows.next()? {
                    if bytes >= budget.max(1) || self.sink.waiting() >= waiting.max(1) {
                        self.next = key.as_ref().to_vec();
                        return Ok(None);
                    }
                    bytes += key.as_ref().len() + value.len();
                    self.bucket.push(&mut self.sink, key.as_ref(), value);
                }
            }
            let value = std::mem::replace(&mut self.bucket, BucketPacker::new()).finish(&mut self.sink);
            self.root.push_bucket(&mut self.sink, bucket.name().as_bytes(), &value);
            (self.at, self.next) = (self.at + 1, Vec::new());
        }
        let root = std::mem::replace(&mut self.root, BucketPacker::new());
        Ok(Some(root.finish_root(&mut self.sink)))
    }
}

/// The rows of bucket `meta`: the view's, what etcd keeps there and we in the tree's meta page, the caller's.
fn meta_rows(view: &StoreView, options: &ExportOptions) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
    let mut all = BTreeMap::new();
    let mut rows = view.rows(Bucket::Meta, b"")?;
    while let Some((key, value)) = rows.next()? {
        all.insert(key.as_ref().to_vec(), value.to_vec());
    }
    let applied = view.applied();
    for (key, number) in [(meta::CONSISTENT_INDEX, applied.index), (meta::TERM, applied.term)] {
        if number > 0 {
            all.insert(key.to_vec(), number.to_be_bytes().to_vec());
        }
    }
    all.extend(options.meta.iter().cloned());
    Ok(all)
}

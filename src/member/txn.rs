//! Transactions at apply: compares and writes. Ranges are read later, from the view, by the shard that answers.
//!
//! Order: all compares first, nested ones included, against the state before the transaction; then every chosen
//! operation is checked; then the writes run. So a refused transaction has changed nothing.
//!
//! Source: behaviours 3 to 7; etcd `apply/txn`.

use bytes::Bytes;
use net::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request as Op,
};
use raft::mutant;
use storage::mvcc::{Interval, KeyInfo, Kv, StoreError, WriteTxn};

use super::{
    Refusal,
    compare::{self, KeyFacts},
    event::{Deleted, OpOutcome, Rev, TxnOutcome},
    lessor::Lessor,
};

/// A refusal of the request, or a fault of this member.
#[derive(Debug)]
pub enum ApplyError {
    /// The client's answer.
    Refused(Refusal),
    /// The member stops.
    Fault(StoreError),
}

impl From<Refusal> for ApplyError {
    fn from(refusal: Refusal) -> Self {
        ApplyError::Refused(refusal)
    }
}

impl From<StoreError> for ApplyError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Compacted { .. } => ApplyError::Refused(Refusal::Compacted),
            StoreError::FutureRevision { .. } => ApplyError::Refused(Refusal::FutureRevision),
            fault => ApplyError::Fault(fault),
        }
    }
}

/// Result of applying one request.
pub type Applied<T> = Result<T, ApplyError>;

/// One write transaction with the leases that its keys belong to.
pub struct Writer<'s, 'l> {
    txn: WriteTxn<'s>,
    lessor: &'l mut Lessor,
    compact_revision: i64,
    changes: u32,
    /// For the metrics.
    pub counts: WriteCounts,
}

/// Operations of a transaction. Source: etcd `metricsTxnWrite`.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteCounts {
    /// Ranges.
    pub ranges: u64,
    /// Puts.
    pub puts: u64,
    /// Keys and values put. Units: bytes.
    pub put_bytes: u64,
    /// Deletes, however many keys each of them hit.
    pub deletes: u64,
}

/// What one walk over the chosen operations checks.
#[derive(Clone, Copy)]
enum Check {
    Puts,
    Ranges,
}

/// The branch each transaction takes, in the order of a walk that visits the chosen operations.
type Path = Vec<bool>;

impl<'s, 'l> Writer<'s, 'l> {
    /// Wraps an open transaction of a store compacted at `compact_revision`.
    pub fn new(txn: WriteTxn<'s>, lessor: &'l mut Lessor, compact_revision: i64) -> Self {
        Writer {
            txn,
            lessor,
            compact_revision,
            changes: 0,
            counts: WriteCounts::default(),
        }
    }

    /// Ends the transaction: the store's revision with it.
    pub fn end(self) -> i64 {
        self.txn.end()
    }

    /// Checks and runs a put; the key's last change before it.
    pub fn put(&mut self, request: &PutRequest) -> Applied<Option<Rev>> {
        // A lone put looks for the lease first, one in a transaction for the key.
        self.check_lease(request)?;
        self.check_put(request)?;
        self.run_put(request)
    }

    /// Runs a delete.
    pub fn delete_range(&mut self, request: &DeleteRangeRequest) -> Deleted {
        self.delete(Interval {
            key: &request.key,
            range_end: &request.range_end,
        })
    }

    /// Removes keys of an ended lease.
    pub fn delete_keys(&mut self, keys: &[Bytes]) {
        for key in keys {
            self.delete(Interval { key, range_end: b"" });
        }
    }

    /// Checks and runs a transaction.
    pub fn txn(&mut self, request: &TxnRequest) -> Applied<TxnOutcome> {
        let mut path = Path::new();
        self.choose(request, &mut path)?;
        self.check_ops(request, &mut path.iter(), Check::Puts)?;
        self.check_ops(request, &mut path.iter(), Check::Ranges)?;
        let mut outcome = self.run_ops(request, &mut path.iter())?;
        outcome.revision = self.revision();
        Ok(outcome)
    }

    /// Revision the store would have if the transaction ended now.
    fn revision(&self) -> i64 {
        if self.changes > 0 {
            self.txn.revision()
        } else {
            self.txn.revision() - 1
        }
    }

    fn choose(&self, request: &TxnRequest, path: &mut Path) -> Applied<()> {
        let mut succeeded = true;
        for compare in &request.compare {
            if !self.holds(compare)? {
                succeeded = mutant::on("failed_compare_writes");
                break;
            }
        }
        path.push(succeeded);
        for op in branch(request, succeeded) {
            if let Some(Op::RequestTxn(inner)) = &op.request {
                self.choose(inner, path)?;
            }
        }
        Ok(())
    }

    fn holds(&self, compare: &Compare) -> Applied<bool> {
        if compare.range_end.is_empty() {
            return self.key_holds(compare, &compare.key, self.txn.get(&compare.key));
        }
        let interval = Interval {
            key: &compare.key,
            range_end: &compare.range_end,
        };
        let mut any = false;
        for (key, info) in self.txn.range(interval) {
            any = true;
            if !self.key_holds(compare, key, Some(info))? {
                return Ok(false);
            }
        }
        // An empty range is compared as one absent key.
        if any {
            Ok(true)
        } else {
            self.key_holds(compare, &compare.key, None)
        }
    }

    fn key_holds(&self, guard: &Compare, key: &[u8], info: Option<KeyInfo>) -> Applied<bool> {
        let facts = info.map_or_else(KeyFacts::default, |info| KeyFacts {
            version: info.version,
            create_revision: info.create_revision,
            mod_revision: info.mod_revision.main,
            lease: info.lease,
        });
        let encoded = if info.is_some() && compare::needs_value(guard) {
            self.txn.kv(key)?
        } else {
            None
        };
        Ok(compare::holds(
            guard,
            facts,
            encoded.map(|encoded| decode(encoded).value),
        ))
    }

    /// All puts are checked before any range, as etcd does.
    fn check_ops(&self, request: &TxnRequest, path: &mut std::slice::Iter<'_, bool>, what: Check) -> Applied<()> {
        let succeeded = *path.next().expect("the path has a step for every transaction walked");
        for op in branch(request, succeeded) {
            match (&op.request, what) {
                (Some(Op::RequestRange(range)), Check::Ranges) => self.check_range(range)?,
                (Some(Op::RequestPut(put)), Check::Puts) => self.check_put(put)?,
                (Some(Op::RequestTxn(inner)), _) => self.check_ops(inner, path, what)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// A negative revision is below every compacted one here, though a lone range takes it for "now".
    fn check_range(&self, request: &RangeRequest) -> Applied<()> {
        if request.revision > self.txn.revision() - 1 {
            return Err(Refusal::FutureRevision.into());
        }
        if request.revision != 0 && request.revision < self.compact_revision {
            return Err(Refusal::Compacted.into());
        }
        Ok(())
    }

    fn check_put(&self, request: &PutRequest) -> Applied<()> {
        if (request.ignore_value || request.ignore_lease) && self.txn.get(&request.key).is_none() {
            return Err(Refusal::KeyNotFound.into());
        }
        self.check_lease(request)
    }

    fn check_lease(&self, request: &PutRequest) -> Applied<()> {
        if request.lease != 0 && !self.lessor.contains(request.lease) {
            return Err(Refusal::LeaseNotFound.into());
        }
        Ok(())
    }

    fn run_ops(&mut self, request: &TxnRequest, path: &mut std::slice::Iter<'_, bool>) -> Applied<TxnOutcome> {
        let succeeded = *path.next().expect("the path has a step for every transaction walked");
        let ops = branch(request, succeeded);
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            results.push(match &op.request {
                Some(Op::RequestRange(_)) | None => {
                    self.counts.ranges += 1;
                    let bound = Rev {
                        main: self.txn.revision(),
                        sub: i64::from(self.changes),
                    };
                    OpOutcome::Range {
                        bound,
                        revision: self.revision(),
                    }
                }
                Some(Op::RequestPut(put)) => {
                    let prev = self.run_put(put)?;
                    OpOutcome::Put {
                        revision: self.revision(),
                        prev,
                    }
                }
                Some(Op::RequestDeleteRange(delete)) => OpOutcome::DeleteRange(self.delete_range(delete)),
                Some(Op::RequestTxn(inner)) => OpOutcome::Txn(self.run_ops(inner, path)?),
            });
        }
        Ok(TxnOutcome {
            revision: 0,
            succeeded,
            results,
        })
    }

    fn run_put(&mut self, request: &PutRequest) -> Applied<Option<Rev>> {
        let kept = if request.ignore_value {
            self.txn.kv(&request.key)?.map(<[u8]>::to_vec)
        } else {
            None
        };
        let value = kept
            .as_deref()
            .map_or(&request.value[..], |encoded| decode(encoded).value);
        let old_lease = self.txn.get(&request.key).map_or(0, |info| info.lease);
        let lease = if request.ignore_lease { old_lease } else { request.lease };
        let prev = self.txn.put(&request.key, value, lease).prev;
        self.changes += 1;
        self.counts.puts += 1;
        self.counts.put_bytes += (request.key.len() + value.len()) as u64;
        if old_lease != lease {
            self.lessor.detach(old_lease, &request.key);
            // The key is copied: it must not keep the buffer it arrived in alive.
            self.lessor.attach(lease, Bytes::copy_from_slice(&request.key));
        }
        Ok(prev.map(|info| rev(info.mod_revision)))
    }

    fn delete(&mut self, interval: Interval<'_>) -> Deleted {
        let gone = self.txn.delete_range(interval);
        self.changes += gone.len() as u32;
        self.counts.deletes += 1;
        let mut prevs = Vec::with_capacity(gone.len());
        for deleted in &gone {
            if deleted.prev.lease != 0 {
                self.lessor.detach(deleted.prev.lease, deleted.key.as_ref());
            }
            prevs.push(rev(deleted.prev.mod_revision));
        }
        Deleted {
            revision: self.revision(),
            prevs,
        }
    }
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

fn rev(revision: storage::mvcc::Revision) -> Rev {
    Rev {
        main: revision.main,
        sub: i64::from(revision.sub),
    }
}

fn decode(encoded: &[u8]) -> Kv<'_> {
    Kv::decode(encoded).expect("the store encodes what it holds")
}

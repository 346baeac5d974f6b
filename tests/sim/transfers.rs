//! Member snapshots on their way: the production pieces over a simulated connection onto a simulated disk.
//!
//! A transfer goes on piece by piece. Either side may crash between two pieces, the connection may be cut or stall, and
//! the receiver's disk may fail or be full; then all of it is thrown away, as by production's shell.

use etcore::member::{Event, INCOMING, Inbound, Outbound, Step};
use raft::Message;
use storage::io::{Disk, DiskError, FileId, Op, OpenOptions, Output, SimDisk, WriteBuf};

use crate::{
    cluster::{Action, Cluster},
    history::{Check, ensure},
    network::NOTICED_NS,
    weather::{Dice, MS, SEC},
};

/// A receiver that hears nothing for this long gives up. Units: nanoseconds. Source: the shell's longest silence.
const SILENCE_NS: u64 = 10 * SEC;

/// Consensus hears so much later of a transfer that failed. Units: nanoseconds. Source: the shell's pause.
const RETRY_NS: u64 = SEC;

/// One life of the member on one machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct End {
    machine: usize,
    life: u64,
}

/// Why the receiver ends a transfer.
enum Broken {
    /// Another one is on its way.
    Refused,
    Disk(String),
}

impl From<DiskError> for Broken {
    fn from(error: DiskError) -> Broken {
        Broken::Disk(error.to_string())
    }
}

/// One transfer.
#[derive(Debug)]
pub struct Transfer {
    from: End,
    to: End,
    /// The receiver's id.
    id: u64,
    message: Message,
    outbound: Outbound,
    /// The receiver has let it in.
    inbound: Option<(Inbound, FileId)>,
    heard_ns: u64,
}

impl Cluster {
    fn end(&self, machine: usize) -> End {
        let life = self.hosts[machine].life;
        End { machine, life }
    }

    fn lives(&self, end: End) -> bool {
        self.hosts[end.machine].life == end.life && self.hosts[end.machine].up.is_some()
    }

    /// Consensus wants a member to be sent the newest durable state.
    pub fn start_transfer(&mut self, index: usize, message: Message) {
        let id = message.to;
        let piece_bytes = self.weather.piece_bytes;
        let up = self.hosts[index].up.as_mut().expect("it has just had a turn");
        if !up.sending.insert(id) {
            return;
        }
        let outbound = Outbound::plan(up.engine.durable_root(), piece_bytes);
        let planned = outbound.and_then(|outbound| Ok((outbound.describe(message)?, outbound)));
        let target = self.machine_of(id).filter(|target| self.hosts[*target].up.is_some());
        let (Ok((message, outbound)), Some(target)) = (planned, target) else {
            return self.tell_sent(self.end(index), id, false);
        };
        self.note(|| format!("m{index} sends m{target} a snapshot: {:?}", message.snapshot));
        let transfer = Transfer {
            from: self.end(index),
            to: self.end(target),
            id,
            message,
            outbound,
            inbound: None,
            heard_ns: self.now_ns,
        };
        *self.counts.events.entry("snapshots begun").or_default() += 1;
        let after_ns = self.travel_ns();
        self.plan(after_ns, Action::Transfer(Box::new(transfer)));
    }

    /// The next piece arrives, or something is in its way.
    pub fn go_on(&mut self, mut transfer: Transfer) -> Check {
        let Transfer { from, to, id, .. } = transfer;
        if !self.lives(from) {
            self.fault("sender of a snapshot gone");
            self.stop_receiving(&mut transfer);
            return Ok(());
        }
        if !self.lives(to) {
            self.fault("receiver of a snapshot gone");
            self.tell_sent(from, id, false);
            return Ok(());
        }
        let silent_ns = self.now_ns - transfer.heard_ns;
        let stands_still = self.hosts[from.machine].paused || self.hosts[to.machine].paused;
        let cut = self.is_cut(from.machine, to.machine);
        if stands_still || cut {
            if silent_ns > SILENCE_NS || (cut && silent_ns > NOTICED_NS) {
                self.fault("snapshot given up");
                return self.fail(transfer);
            }
            self.plan(200 * MS, Action::Transfer(Box::new(transfer)));
            return Ok(());
        }
        if !self.calm && self.rng.percent(self.weather.loss.div_ceil(3)) {
            self.fault("snapshot cut");
            return self.fail(transfer);
        }
        match self.take_piece(&mut transfer) {
            Ok(false) => {
                transfer.heard_ns = self.now_ns;
                let after_ns = self.travel_ns() + self.rng.between(self.weather.disk_ns / 4, self.weather.disk_ns);
                self.plan(after_ns, Action::Transfer(Box::new(transfer)));
                Ok(())
            }
            Ok(true) => self.received(transfer),
            Err(Broken::Refused) => {
                self.fault("second snapshot refused");
                self.fail(transfer)
            }
            Err(Broken::Disk(why)) => {
                let host = &self.hosts[to.machine];
                ensure!(host.may_fail || host.full, "m{} can not receive: {why}", host.index);
                self.fault("snapshot failed by the disk");
                self.fail(transfer)
            }
        }
    }

    /// Whether it was the last one.
    fn take_piece(&mut self, transfer: &mut Transfer) -> Result<bool, Broken> {
        let disk = &mut self.hosts[transfer.to.machine].disk;
        let Some((inbound, file)) = transfer.inbound.as_mut() else {
            let up = self.hosts[transfer.to.machine].up();
            if std::mem::replace(&mut up.receiving, true) {
                return Err(Broken::Refused);
            }
            let file = create(&mut self.hosts[transfer.to.machine].disk);
            let file = file.inspect_err(|_| self.hosts[transfer.to.machine].up().receiving = false)?;
            transfer.inbound = Some((Inbound::default(), file));
            return Ok(false);
        };
        let piece = transfer.outbound.next_piece().expect("the end was not sent yet");
        let step = inbound.take(&piece.into());
        match step.expect("pieces come whole and in order") {
            Step::Write { offset, bytes } => {
                let data = WriteBuf::Bytes(bytes);
                let file = *file;
                disk.call(Op::Write { file, offset, data })?;
                Ok(false)
            }
            Step::End { len } => {
                for op in [Op::SetLen(*file, len), Op::Sync(*file), Op::SyncDir(String::new())] {
                    disk.call(op)?;
                }
                Ok(true)
            }
        }
    }

    fn received(&mut self, mut transfer: Transfer) -> Check {
        let Transfer { from, to, id, .. } = transfer;
        if let Some((_, file)) = transfer.inbound.take() {
            let _ = self.hosts[to.machine].disk.call(Op::Close(file));
        }
        *self.counts.events.entry("snapshots received").or_default() += 1;
        self.tell(to.machine, Event::SnapshotReceived(Box::new(transfer.message)));
        let after_ns = self.travel_ns();
        let heard = self.calm || !self.rng.percent(self.weather.loss);
        self.plan(after_ns, Action::Sent(from.machine, from.life, id, heard));
        Ok(())
    }

    fn fail(&mut self, mut transfer: Transfer) -> Check {
        self.stop_receiving(&mut transfer);
        self.tell_sent(transfer.from, transfer.id, false);
        Ok(())
    }

    fn stop_receiving(&mut self, transfer: &mut Transfer) {
        if let Some((_, file)) = transfer.inbound.take()
            && self.lives(transfer.to)
        {
            let host = &mut self.hosts[transfer.to.machine];
            let _ = host.disk.call(Op::Close(file));
            host.up().receiving = false;
        }
    }

    fn tell_sent(&mut self, from: End, id: u64, ok: bool) {
        let after_ns = if ok { MS } else { RETRY_NS };
        self.plan(after_ns, Action::Sent(from.machine, from.life, id, ok));
    }

    /// The sender learns how a transfer ended.
    pub fn sent(&mut self, machine: usize, life: u64, to: u64, ok: bool) {
        if self.lives(End { machine, life }) {
            self.hosts[machine].up().sending.remove(&to);
            self.tell(machine, Event::SnapshotSent { to, ok });
        }
    }
}

/// An empty file for the pages.
fn create(disk: &mut SimDisk) -> Result<FileId, DiskError> {
    let options = OpenOptions {
        create: true,
        write: true,
        ..OpenOptions::default()
    };
    let path = INCOMING.to_owned();
    let Output::File(file) = disk.call(Op::Open { path, options })? else {
        unreachable!("an open answers a file");
    };
    disk.call(Op::SetLen(file, 0))?;
    Ok(file)
}

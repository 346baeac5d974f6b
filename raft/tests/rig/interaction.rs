//! The commands of the golden scripts, and how things look in them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Config, Entry,
    EntryType, Message, MessageType, PersistToken, ProgressState, Ready,
};

use crate::member::Member;

#[derive(Default)]
pub struct Interaction {
    members: BTreeMap<u64, Member>,
    network: VecDeque<Message>,
    manual_apply: bool,
    /// The last token each member's disk answered.
    answered: BTreeMap<u64, PersistToken>,
    out: String,
}

impl Interaction {
    /// Runs a command; gives back what it prints.
    pub fn run(&mut self, command: &str) -> String {
        let mut words: Vec<&str> = command.split_whitespace().collect();
        let name = words.remove(0);
        self.out.clear();
        match name {
            "new" => self.new_group(&words),
            "settle" => self.settle(&words),
            "deliver" => self.deliver(&words),
            "drop" => self.drop_messages(&words),
            "step" => self.step(&words),
            _ => {
                let id = words.remove(0).parse().expect("the command names a member");
                self.run_on(name, id, &words);
            }
        }
        if self.out.is_empty() {
            self.out.push_str("ok\n");
        }
        self.out.clone()
    }

    fn run_on(&mut self, name: &str, id: u64, words: &[&str]) {
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        if name == "restart" {
            let restarted = self.member(id).restarted();
            self.members.insert(id, restarted);
            return;
        }
        if name == "apply" {
            return self.apply(id, number(0).unwrap_or(u64::MAX) as usize);
        }
        let member = self
            .members
            .get_mut(&id)
            .expect("the command names a member of the group");
        let raw = &mut member.raw;
        let outcome = match name {
            "tick" => {
                (0..number(0).unwrap_or(1)).for_each(|_| raw.tick());
                Ok(())
            }
            "campaign" => {
                raw.campaign();
                Ok(())
            }
            "propose" => {
                let data = words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes()));
                raw.propose_batch(data).map_err(|e| e.to_string())
            }
            "conf" => match parse_change(words) {
                (Some(v1), _) => raw.propose_conf_change(v1).map_err(|e| e.to_string()),
                (None, v2) => raw.propose_conf_change(v2).map_err(|e| e.to_string()),
            },
            "read" => raw
                .read_index(number(0).expect("read needs a context"))
                .map_err(|e| e.to_string()),
            "transfer" => raw
                .transfer_leader(number(0).expect("transfer needs an heir"))
                .map_err(|e| e.to_string()),
            "forget" => {
                raw.forget_leader();
                Ok(())
            }
            "gone" => {
                raw.report_gone(number(0).expect("gone needs a member"));
                Ok(())
            }
            "unreachable" => {
                raw.report_unreachable(number(0).expect("unreachable needs a member"));
                Ok(())
            }
            "report" => {
                raw.report_snapshot(number(0).expect("report needs a member"), words[1] == "ok");
                Ok(())
            }
            "compact" => {
                member.snapshot_and_compact(number(0).expect("compact needs how many entries to keep"));
                Ok(())
            }
            "ready" => {
                self.ready(id);
                return;
            }
            "persist" => {
                self.persist(id, number(0).map(|count| count as usize));
                return;
            }
            "persist-again" => {
                raw.on_persisted(self.answered[&id]);
                Ok(())
            }
            "status" => {
                self.status(id);
                return;
            }
            "log" => {
                self.log(id);
                return;
            }
            _ => panic!("no such command: {name}"),
        };
        if let Err(error) = outcome {
            self.print(&format!("refused: {error}"));
        }
    }

    fn member(&mut self, id: u64) -> &mut Member {
        self.members
            .get_mut(&id)
            .expect("the command names a member of the group")
    }

    fn print(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }

    /// `new 1 2 3 learner=4 spare=5 option=value`: plain numbers vote.
    fn new_group(&mut self, words: &[&str]) {
        *self = Interaction::default();
        let (options, ids): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.contains('='));
        let mut conf_state = ConfState::of_voters(ids.iter().map(|id| id.parse::<u64>().expect("a voter's id")));
        let mut all = conf_state.voters.clone();
        for (key, value) in options.iter().filter_map(|option| option.split_once('=')) {
            match key {
                "learner" => conf_state.learners.push(value.parse().expect("a learner's id")),
                "spare" => all.push(value.parse().expect("a spare's id")),
                "apply" => self.manual_apply = value == "manual",
                _ => {}
            }
        }
        all.extend(&conf_state.learners);
        for id in all {
            let mut config = Config::new(id);
            config.pre_vote = false;
            config.check_quorum = false;
            options
                .iter()
                .filter_map(|option| option.split_once('='))
                .for_each(|(k, v)| set(&mut config, k, v));
            self.members.insert(id, Member::new(config, conf_state.clone()));
        }
    }

    fn ready(&mut self, id: u64) {
        if !self.member(id).raw.has_ready() {
            return self.print(&format!("{id}: nothing"));
        }
        let ready = self.member(id).take_ready();
        let text = show_ready(&ready);
        self.print(&format!("{id}: ready{text}"));
        self.network.extend(ready.messages);
        if !self.manual_apply && ready.snapshot.is_none() {
            self.member(id).apply(usize::MAX);
        }
    }

    fn apply(&mut self, id: u64, count: usize) {
        for entry in self.member(id).apply(count) {
            self.print(&format!("{id}: applied {}", show_entry(&entry)));
        }
    }

    fn persist(&mut self, id: u64, count: Option<usize>) {
        let tokens = self.member(id).tokens();
        let count = count.unwrap_or(tokens.len());
        if let Some(token) = tokens[..count].last() {
            self.answered.insert(id, *token);
        }
        self.member(id).persist(count);
    }

    /// Lets everything happen until nothing moves: `settle 1 2` among these members only (all if none is named).
    fn settle(&mut self, words: &[&str]) {
        let mut ids: Vec<u64> = words.iter().map(|word| word.parse().expect("a member's id")).collect();
        if ids.is_empty() {
            ids = self.members.keys().copied().collect();
        }
        loop {
            let mut moved = false;
            for &id in &ids {
                if self.member(id).raw.has_ready() {
                    self.ready(id);
                    moved = true;
                }
                if self.member(id).writes_in_flight() > 0 {
                    self.persist(id, None);
                    moved = true;
                }
            }
            let (now, later): (Vec<Message>, Vec<Message>) = self
                .network
                .drain(..)
                .partition(|m: &Message| ids.contains(&m.to) && ids.contains(&m.from));
            self.network = later.into();
            moved |= !now.is_empty();
            now.into_iter().for_each(|message| self.deliver_one(message));
            if !moved {
                return;
            }
        }
    }

    /// `deliver from=1 to=2 type=MsgApp`: what matches, in order.
    fn deliver(&mut self, words: &[&str]) {
        for message in self.take_matching(words) {
            self.print(&format!("delivered {}", show_message(&message)));
            self.deliver_one(message);
        }
    }

    fn drop_messages(&mut self, words: &[&str]) {
        for message in self.take_matching(words) {
            self.print(&format!("dropped {}", show_message(&message)));
        }
    }

    fn take_matching(&mut self, words: &[&str]) -> Vec<Message> {
        let matches = |message: &Message| {
            words
                .iter()
                .filter_map(|word| word.split_once('='))
                .all(|(key, value)| match key {
                    "from" => message.from.to_string() == value,
                    "to" => message.to.to_string() == value,
                    _ => format!("{:?}", message.msg_type) == value,
                })
        };
        let (taken, left): (Vec<Message>, Vec<Message>) = self.network.drain(..).partition(matches);
        self.network = left.into();
        taken
    }

    fn deliver_one(&mut self, message: Message) {
        let to = message.to;
        let text = show_message(&message);
        let Some(member) = self.members.get_mut(&to) else {
            return;
        };
        if let Err(error) = member.raw.step(message) {
            self.print(&format!("refused {text}: {error}"));
        }
    }

    /// `step type=MsgHeartbeat from=2 to=1 term=3 commit=4`: a message out of nowhere.
    fn step(&mut self, words: &[&str]) {
        let mut message = Message::default();
        for (key, value) in words.iter().filter_map(|word| word.split_once('=')) {
            let number = value.parse::<u64>().unwrap_or(0);
            match key {
                "type" => message.msg_type = parse_type(value),
                "from" => message.from = number,
                "to" => message.to = number,
                "term" => message.term = number,
                "logterm" => message.log_term = number,
                "index" => message.index = number,
                "commit" => message.commit = number,
                "reject" => message.reject = value == "true",
                _ => panic!("no such field: {key}"),
            }
        }
        self.deliver_one(message);
    }

    fn status(&mut self, id: u64) {
        let status = self.member(id).raw.status();
        let hard = status.hard_state;
        self.print(&format!(
            "{id}: {:?} leader={} term={} vote={} commit={} applied={} last={} durable={} {}",
            status.soft_state.role,
            status.soft_state.leader_id,
            hard.term,
            hard.vote,
            hard.commit,
            status.applied,
            status.last_index,
            status.persisted_index,
            show_conf(&status.conf_state)
        ));
        for (peer, progress) in status.progress {
            let state = match progress.state {
                ProgressState::Snapshot { pending } => format!("Snapshot({pending})"),
                state => format!("{state:?}"),
            };
            self.print(&format!(
                "  {peer}: {state} match={} next={} inflight={}{}{}{}",
                progress.matched,
                progress.next,
                progress.inflights.count(),
                if progress.is_paused() { " paused" } else { "" },
                if progress.is_learner { " learner" } else { "" },
                if progress.recent_active { "" } else { " silent" },
            ));
        }
    }

    fn log(&mut self, id: u64) {
        let raw = &self.members[&id].raw;
        let entries = raw
            .entries(raw.first_index(), raw.last_index() + 1, u64::MAX)
            .unwrap_or_default();
        let text: Vec<String> = entries.iter().map(show_entry).collect();
        let line = format!("{id}: {} | {}", raw.first_index(), text.join(" "));
        self.print(&line);
    }
}

fn set(config: &mut Config, key: &str, value: &str) {
    let flag = value == "true";
    let number = value.parse::<u64>().unwrap_or(0);
    match key {
        "pre_vote" => config.pre_vote = flag,
        "check_quorum" => config.check_quorum = flag,
        "commit_before_persist" => config.commit_before_persist = flag,
        "forwarding" => config.disable_proposal_forwarding = !flag,
        "max_size_per_message" => config.max_size_per_message = number,
        "max_entries_per_message" => config.max_entries_per_message = number as usize,
        "max_inflight_messages" => config.max_inflight_messages = number as usize,
        "max_inflight_bytes" => config.max_inflight_bytes = number,
        "max_uncommitted_bytes" => config.max_uncommitted_bytes = number,
        "max_uncommitted_entries" => config.max_uncommitted_entries = number as usize,
        "max_committed_entries_per_ready" => config.max_committed_entries_per_ready = number as usize,
        "max_pending_read_index" => config.max_pending_read_index = number as usize,
        "max_queued_messages" => config.max_queued_messages = number as usize,
        "learner" | "spare" | "apply" => {}
        _ => panic!("no such option: {key}"),
    }
}

/// `v4 l5 r2 u1 implicit`, `leave`, or `v1form v4` for the old form.
fn parse_change(words: &[&str]) -> (Option<ConfChange>, ConfChangeV2) {
    let mut change = ConfChangeV2::default();
    let mut old_form = false;
    for word in words {
        match *word {
            "implicit" => change.transition = ConfChangeTransition::JointImplicit,
            "explicit" => change.transition = ConfChangeTransition::JointExplicit,
            "leave" => return (None, ConfChangeV2::leave_joint()),
            "v1form" => old_form = true,
            step => {
                let change_type = match &step[..1] {
                    "v" => ConfChangeType::AddNode,
                    "l" => ConfChangeType::AddLearnerNode,
                    "r" => ConfChangeType::RemoveNode,
                    _ => ConfChangeType::UpdateNode,
                };
                let node_id = step[1..].parse().expect("a step ends in a member's id");
                change.changes.push(ConfChangeSingle { change_type, node_id });
            }
        }
    }
    let old = old_form.then(|| ConfChange {
        change_type: change.changes[0].change_type,
        node_id: change.changes[0].node_id,
        ..Default::default()
    });
    (old, change)
}

fn parse_type(name: &str) -> MessageType {
    let found = MessageType::ALL
        .into_iter()
        .find(|msg_type| format!("{msg_type:?}") == name);
    found.expect("a message type of raftpb")
}

fn show_ready(ready: &Ready) -> String {
    let mut lines = Vec::new();
    if let Some(soft) = ready.soft_state {
        lines.push(format!("{:?} leader={}", soft.role, soft.leader_id));
    }
    if let Some(snapshot) = &ready.snapshot {
        let metadata = &snapshot.metadata;
        lines.push(format!(
            "install {}/{} {}",
            metadata.term,
            metadata.index,
            show_conf(&metadata.conf_state)
        ));
    }
    if !ready.entries.is_empty() {
        lines.push(format!("append {}", show_entries(&ready.entries)));
    }
    if let Some(hard) = ready.hard_state {
        lines.push(format!(
            "hard state term={} vote={} commit={}",
            hard.term, hard.vote, hard.commit
        ));
    }
    if let Some(token) = ready.token {
        let PersistToken {
            sequence,
            term,
            last_index,
            last_term,
        } = token;
        lines.push(format!(
            "token #{sequence} in term {term}, log to {last_term}/{last_index}"
        ));
    }
    if !ready.committed.is_empty() {
        lines.push(format!("committed {}", show_entries(&ready.committed)));
    }
    for read in &ready.read_states {
        lines.push(format!("read {} at {}", read.context, read.index));
    }
    lines.extend(ready.messages.iter().map(show_message));
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

fn show_message(message: &Message) -> String {
    use MessageType::*;
    let mut text = format!("{:?} {}->{}", message.msg_type, message.from, message.to);
    if message.term != 0 {
        text += &format!(" term={}", message.term);
    }
    match message.msg_type {
        MsgApp | MsgVote | MsgPreVote => text += &format!(" after {}/{}", message.log_term, message.index),
        MsgAppResp if !message.reject => text += &format!(" index={}", message.index),
        MsgReadIndexResp => text += &format!(" index={}", message.index),
        MsgAppResp => {
            text += &format!(
                " no at {}, perhaps {}/{}",
                message.index, message.log_term, message.reject_hint
            );
        }
        MsgVoteResp | MsgPreVoteResp if message.reject => text += " no",
        MsgVoteResp | MsgPreVoteResp => text += " yes",
        _ => {}
    }
    if message.commit > 0 {
        text += &format!(" commit={}", message.commit);
    }
    match (message.context.len(), <[u8; 8]>::try_from(message.context.as_ref())) {
        (0, _) => {}
        (_, Ok(round)) => text += &format!(" round={}", u64::from_be_bytes(round)),
        _ => text += &format!(" {}", String::from_utf8_lossy(&message.context)),
    }
    if let Some(snapshot) = &message.snapshot {
        let metadata = &snapshot.metadata;
        text += &format!(
            " {}/{} {}",
            metadata.term,
            metadata.index,
            show_conf(&metadata.conf_state)
        );
    }
    match message.msg_type {
        MsgReadIndex | MsgReadIndexResp => text += &format!(" context={}", show_context(&message.entries)),
        _ if message.entries.is_empty() => {}
        _ => text += &format!(" [{}]", show_entries(&message.entries)),
    }
    text
}

fn show_context(entries: &[Entry]) -> u64 {
    entries
        .iter()
        .filter_map(|entry| entry.data.as_ref().try_into().ok())
        .map(u64::from_be_bytes)
        .next()
        .unwrap_or(0)
}

fn show_entries(entries: &[Entry]) -> String {
    entries.iter().map(show_entry).collect::<Vec<_>>().join(" ")
}

fn show_entry(entry: &Entry) -> String {
    let data = match entry.entry_type {
        EntryType::Normal => format!("\"{}\"", String::from_utf8_lossy(&entry.data)),
        _ => show_change(
            &entry
                .conf_change()
                .expect("the change can be decoded")
                .expect("the entry is a change"),
        ),
    };
    format!("{}/{}:{data}", entry.term, entry.index)
}

fn show_change(change: &ConfChangeV2) -> String {
    if change.leaves_joint() {
        return "leave".into();
    }
    let steps = change.changes.iter().map(|single| {
        let letter = match single.change_type {
            ConfChangeType::AddNode => "v",
            ConfChangeType::AddLearnerNode => "l",
            ConfChangeType::RemoveNode => "r",
            ConfChangeType::UpdateNode => "u",
        };
        format!("{letter}{}", single.node_id)
    });
    format!("<{}>", steps.collect::<Vec<_>>().join(","))
}

fn show_conf(state: &ConfState) -> String {
    let list = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let mut text = format!("voters=({})", list(&state.voters));
    for (name, ids) in [
        ("outgoing", &state.voters_outgoing),
        ("learners", &state.learners),
        ("learners_next", &state.learners_next),
    ] {
        if !ids.is_empty() {
            text += &format!(" {name}=({})", list(ids));
        }
    }
    text + if state.auto_leave { " autoleave" } else { "" }
}

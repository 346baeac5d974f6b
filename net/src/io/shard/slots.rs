//! Where a shard keeps its connections, by index; the generation tells a name that was used before.

use super::ConnId;
use super::conn::Conn;
use std::rc::Rc;

#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    taken: usize,
}

struct Slot {
    generation: u32,
    conn: Option<Rc<Conn>>,
}

impl Slots {
    pub(super) fn insert(&mut self, make: impl FnOnce(ConnId) -> Conn) -> Rc<Conn> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                conn: None,
            });
            u32::try_from(self.slots.len() - 1).expect("descriptors run out before indexes do")
        });
        let slot = &mut self.slots[index as usize];
        let conn = Rc::new(make(ConnId {
            index,
            generation: slot.generation,
        }));
        slot.conn = Some(Rc::clone(&conn));
        self.taken += 1;
        conn
    }

    pub(super) fn get(&self, id: ConnId) -> Option<Rc<Conn>> {
        let slot = self.slots.get(id.index as usize)?;
        if slot.generation == id.generation {
            slot.conn.clone()
        } else {
            None
        }
    }

    pub(super) fn remove(&mut self, id: ConnId) {
        let slot = &mut self.slots[id.index as usize];
        assert!(
            slot.generation == id.generation && slot.conn.is_some(),
            "a connection is removed once, by its task"
        );
        slot.conn = None;
        self.taken -= 1;
        // An index whose generations are used up is not used again.
        if let Some(generation) = slot.generation.checked_add(1) {
            slot.generation = generation;
            self.free.push(id.index);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.taken
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Rc<Conn>> + '_ {
        self.slots.iter().filter_map(|slot| slot.conn.clone())
    }
}

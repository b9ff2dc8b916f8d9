//! Content ids, and the pages a target keeps so that they need not be sent again (refs 23, 24).
//!
//! Cluster = trust domain: ids are keyed by the cluster, one store belongs to one cluster, so an id
//! of another cluster names nothing and no content is ever confirmed across clusters.

use std::collections::{HashMap, VecDeque};

use transhume_model::ClusterName;

use crate::limits::{BACK_IDS_MAX, KNOWLEDGE_IDS_MAX, PAGE_BYTES, STORE_CHANGES_MAX};
use crate::stream::Page;

/// 128 bits of a page's keyed BLAKE3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId(pub [u8; 16]);

/// The key that ids of one cluster are made with.
#[derive(Clone)]
pub struct ContentKey([u8; 32]);

impl ContentKey {
    /// The key of a cluster. `secret` is what only that cluster's agents know; it may be empty in a
    /// lab.
    pub fn of(cluster: &ClusterName, secret: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("transhume 2026 page content ids of one cluster");
        hasher.update(&(cluster.as_str().len() as u64).to_le_bytes());
        hasher.update(cluster.as_str().as_bytes());
        hasher.update(secret);
        ContentKey(*hasher.finalize().as_bytes())
    }

    /// The id of a page.
    pub fn id(&self, page: &Page) -> ContentId {
        let hash = blake3::keyed_hash(&self.0, page);
        ContentId(std::array::from_fn(|at| hash.as_bytes()[at]))
    }

    /// What both ends compare in the hello: equal keys give equal fingerprints, and say no more.
    pub fn fingerprint(&self) -> [u8; 16] {
        let hash = blake3::keyed_hash(&self.0, b"fingerprint");
        std::array::from_fn(|at| hash.as_bytes()[at])
    }
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Holds(ContentId),
    Dropped(ContentId),
}

/// How far one sender has been told.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreCursor(Option<u64>);

/// What a sender must be told next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreNews {
    /// Forget everything first.
    pub reset: bool,
    /// Ids now held.
    pub holds: Vec<ContentId>,
    /// Ids no longer held.
    pub dropped: Vec<ContentId>,
}

struct Entry {
    id: ContentId,
    page: Box<Page>,
    used: bool,
}

/// The bounded store of one cluster's pages on one target host; evicts by second chance.
pub struct PageStore {
    slots: Vec<Entry>,
    by_id: HashMap<ContentId, usize>,
    slots_max: usize,
    entered: u64,
    hand: usize,
    changes: VecDeque<Change>,
    first_change: u64,
}

impl PageStore {
    /// A store of at most `page_store_bytes_max` bytes of pages.
    pub fn new(page_store_bytes_max: u64) -> Self {
        let slots_max = usize::try_from(page_store_bytes_max / PAGE_BYTES as u64).unwrap_or(usize::MAX);
        PageStore {
            slots: Vec::new(),
            by_id: HashMap::new(),
            slots_max,
            entered: 0,
            hand: 0,
            changes: VecDeque::new(),
            first_change: 0,
        }
    }

    /// The page of this content.
    pub fn get(&mut self, id: ContentId) -> Option<&Page> {
        let entry = &mut self.slots[*self.by_id.get(&id)?];
        entry.used = true;
        Some(&entry.page)
    }

    /// Whether the page is held; does not count as use.
    pub fn holds(&self, id: ContentId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Pages held.
    pub fn pages(&self) -> usize {
        self.slots.len()
    }

    /// Pages entered so far, those dropped since among them.
    pub fn entered(&self) -> u64 {
        self.entered
    }

    /// Enters a page under the id that the caller computed from it; evicts one if the store is
    /// full.
    pub fn insert(&mut self, id: ContentId, page: &Page) {
        if self.slots_max == 0 || self.by_id.contains_key(&id) {
            return;
        }
        if self.slots.len() < self.slots_max {
            self.by_id.insert(id, self.slots.len());
            self.slots.push(Entry {
                id,
                page: Box::new(*page),
                used: false,
            });
        } else {
            self.replace(id, page);
        }
        self.entered += 1;
        self.note(Change::Holds(id));
    }

    fn replace(&mut self, id: ContentId, page: &Page) {
        while std::mem::take(&mut self.slots[self.hand].used) {
            self.hand = (self.hand + 1) % self.slots.len();
        }
        let entry = &mut self.slots[self.hand];
        let old = std::mem::replace(&mut entry.id, id);
        *entry.page = *page;
        self.by_id.remove(&old);
        self.by_id.insert(id, self.hand);
        self.hand = (self.hand + 1) % self.slots.len();
        self.note(Change::Dropped(old));
    }

    fn note(&mut self, change: Change) {
        if self.changes.len() >= STORE_CHANGES_MAX {
            self.changes.pop_front();
            self.first_change += 1;
        }
        self.changes.push_back(change);
    }

    /// What happened since the cursor, which moves on. At most `BACK_IDS_MAX` changes at once,
    /// except for a reset.
    pub fn news(&self, cursor: &mut StoreCursor) -> StoreNews {
        let end = self.first_change + self.changes.len() as u64;
        let from = match cursor.0 {
            Some(at) if at >= self.first_change => at,
            _ => {
                cursor.0 = Some(end);
                return StoreNews {
                    reset: true,
                    holds: self.slots.iter().map(|e| e.id).collect(),
                    dropped: vec![],
                };
            }
        };
        let mut news = StoreNews::default();
        let mut last: HashMap<ContentId, bool> = HashMap::new();
        let skip = (from - self.first_change) as usize;
        for change in self.changes.iter().skip(skip).take(BACK_IDS_MAX) {
            match *change {
                Change::Holds(id) => last.insert(id, true),
                Change::Dropped(id) => last.insert(id, false),
            };
        }
        for (id, held) in last {
            if held {
                news.holds.push(id)
            } else {
                news.dropped.push(id)
            }
        }
        news.holds.sort_unstable();
        news.dropped.sort_unstable();
        cursor.0 = Some(end.min(from + BACK_IDS_MAX as u64));
        news
    }
}

/// What a sender may count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The target said that it holds it.
    Held,
    /// Some stream of this host has sent it; the target will hold it once it gets there.
    Promised,
}

/// What a sender thinks one target host holds. Wrong entries cost a round trip, never a wrong page.
#[derive(Default)]
pub struct Knowledge {
    ids: HashMap<ContentId, (u64, Standing)>,
    order: VecDeque<(ContentId, u64)>,
    clock: u64,
}

impl Knowledge {
    /// Whether a reference to this content is worth sending, and what it counts on.
    pub fn standing(&self, id: ContentId) -> Option<Standing> {
        self.ids.get(&id).map(|(_, standing)| *standing)
    }

    /// The target says that it holds it.
    pub fn held(&mut self, id: ContentId) {
        self.note(id, Standing::Held);
    }

    /// It is on its way to the target.
    pub fn promise(&mut self, id: ContentId) {
        self.note(id, self.standing(id).unwrap_or(Standing::Promised));
    }

    /// The latest entry; forgets the oldest past the limit.
    fn note(&mut self, id: ContentId, standing: Standing) {
        self.clock += 1;
        self.ids.insert(id, (self.clock, standing));
        self.order.push_back((id, self.clock));
        while self.ids.len() > KNOWLEDGE_IDS_MAX || self.order.len() > 2 * KNOWLEDGE_IDS_MAX {
            let Some((old, stamp)) = self.order.pop_front() else {
                break;
            };
            if self.ids.get(&old).is_some_and(|(latest, _)| *latest == stamp) {
                self.ids.remove(&old);
            }
        }
    }

    /// The target dropped it.
    pub fn forget(&mut self, id: ContentId) {
        self.ids.remove(&id);
    }

    /// The target lists anew what it holds. What is on its way still is.
    pub fn forget_held(&mut self) {
        self.ids
            .retain(|_, (_, standing)| *standing == Standing::Promised);
    }

    /// A stream broke: what it had sent may never arrive.
    pub fn forget_promises(&mut self) {
        self.ids.retain(|_, (_, standing)| *standing == Standing::Held);
    }

    /// Ids known.
    pub fn count(&self) -> usize {
        self.ids.len()
    }
}

//! What the page streams of one cluster share on a host: the store of pages that arrived, and what
//! each target is thought to hold.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;
use transhume_model::{Bytes, ClusterName};
use transhume_pages::{Knowledge, PageStore};

/// Targets of clusters that a source remembers; past it everything is forgotten and learned anew.
const TARGETS_KNOWN_MAX: usize = 64;

/// Pages of one cluster; its streams into this host enter them and refer to them.
pub(super) type SharedStore = Arc<ClusterStore>;

/// The store, and who waits for it to grow.
pub(super) struct ClusterStore {
    pub pages: Mutex<PageStore>,
    /// Told when a stream has entered pages.
    pub grew: Notify,
}

/// What one target host holds of one cluster; the streams towards it share it.
pub(super) type SharedKnowledge = Arc<Mutex<Knowledge>>;

pub(super) fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

struct Held {
    store: SharedStore,
    bytes_max: u64,
}

/// What links to target hosts carried last, bytes per second: a stream begins with it. Forgotten
/// with the targets of clusters.
pub(super) type LinkRates = Arc<Mutex<HashMap<IpAddr, u64>>>;

/// All clusters of this host.
pub struct PageShare {
    store_bytes_max: u64,
    stores: Mutex<HashMap<ClusterName, Held>>,
    knowledge: Mutex<HashMap<(ClusterName, IpAddr), SharedKnowledge>>,
    rates: LinkRates,
}

impl std::fmt::Debug for PageShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageShare")
            .field("store_bytes_max", &self.store_bytes_max)
            .finish_non_exhaustive()
    }
}

impl PageShare {
    /// None yet. All stores together keep at most so much.
    pub fn new(store_bytes_max: Bytes) -> Self {
        Self {
            store_bytes_max: store_bytes_max.0,
            stores: Mutex::default(),
            knowledge: Mutex::default(),
            rates: LinkRates::default(),
        }
    }

    /// The store of a cluster; a new one gets what the stores in use leave, and ends those that no
    /// stream uses.
    pub(super) fn store(&self, cluster: &ClusterName) -> SharedStore {
        let mut stores = locked(&self.stores);
        if !stores.contains_key(cluster) {
            stores.retain(|_, held| Arc::strong_count(&held.store) > 1);
            let used: u64 = stores.values().map(|held| held.bytes_max).sum();
            let bytes_max = self.store_bytes_max.saturating_sub(used);
            let store = Arc::new(ClusterStore {
                pages: Mutex::new(PageStore::new(bytes_max)),
                grew: Notify::new(),
            });
            stores.insert(cluster.clone(), Held { store, bytes_max });
        }
        stores[cluster].store.clone()
    }

    /// What is known of the links.
    pub(super) fn rates(&self) -> LinkRates {
        let mut rates = locked(&self.rates);
        if rates.len() >= TARGETS_KNOWN_MAX {
            rates.clear();
        }
        self.rates.clone()
    }

    /// What is known of a target.
    pub(super) fn knowledge(&self, cluster: &ClusterName, target: IpAddr) -> SharedKnowledge {
        let mut known = locked(&self.knowledge);
        if known.len() >= TARGETS_KNOWN_MAX {
            known.clear();
        }
        known.entry((cluster.clone(), target)).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_of_two_clusters_stay_within_the_limit_and_an_unused_one_makes_room() {
        let share = PageShare::new(Bytes(8 << 12));
        let name = |text: &str| text.parse::<ClusterName>().unwrap();
        let fill = |store: &SharedStore, pages: u8| {
            for at in 0..pages {
                let id = transhume_pages::ContentId([at; 16]);
                locked(&store.pages).insert(id, &[at; 4096]);
            }
            locked(&store.pages).pages()
        };
        let first = share.store(&name("first"));
        assert_eq!(fill(&first, 20), 8);
        assert_eq!(fill(&share.store(&name("second")), 20), 0, "the first is in use");
        assert!(Arc::ptr_eq(&first, &share.store(&name("first"))));
        drop(first);
        assert_eq!(fill(&share.store(&name("third")), 20), 8);
        assert_eq!(locked(&share.store(&name("first")).pages).pages(), 0);
    }
}

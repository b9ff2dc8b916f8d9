//! Any sequence of entries and questions: the store keeps to its size and gives what was entered,
//! and each sender that is told the news knows exactly what is held.

use transhume_pages::content::{StoreCursor, StoreNews};
use transhume_pages::limits::PAGE_BYTES;
use transhume_pages::stream::Page;
use transhume_pages::{ContentId, Knowledge, PageStore};

use super::Choices;

const SENDERS: usize = 3;
const CONTENTS: u8 = 8;

static PAGES: [Page; CONTENTS as usize] = {
    let mut pages = [[0; PAGE_BYTES]; CONTENTS as usize];
    let mut content = 0;
    while content < CONTENTS {
        pages[content as usize][4000] = content;
        content += 1;
    }
    pages
};

fn id(content: u8) -> ContentId {
    ContentId([content; 16])
}

/// Tells a sender the news until there is none, and compares what it then knows with what is held.
fn tell(store: &PageStore, cursor: &mut StoreCursor, know: &mut Knowledge) {
    let news = store.news(cursor);
    let ids = [&news.holds[..], &news.dropped].concat();
    let twice = ids.iter().enumerate().any(|(at, id)| ids[..at].contains(id));
    assert!(!twice, "one id is told twice, or both ways");
    if news.reset {
        know.forget_held();
    }
    news.holds.iter().for_each(|id| know.held(*id));
    news.dropped.iter().for_each(|id| know.forget(*id));
    // As many, and none that is not held: the same ones.
    assert_eq!(know.count(), store.pages());
    assert!((0..CONTENTS).all(|content| know.standing(id(content)).is_none() || store.holds(id(content))));
}

/// Tries one input.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let slots = usize::from(choices.byte() % 5);
    let mut store = PageStore::new((slots * PAGE_BYTES) as u64);
    let mut senders: [(StoreCursor, Knowledge); SENDERS] = Default::default();
    while !choices.done() {
        let choice = choices.byte();
        let content = choice % CONTENTS;
        match choice / CONTENTS {
            0..=15 => {
                store.insert(id(content), &PAGES[usize::from(content)]);
                assert_eq!(store.holds(id(content)), slots > 0);
            }
            16..=25 => {
                let held = store.holds(id(content));
                let page = store.get(id(content));
                assert_eq!(page.is_some(), held);
                assert!(page.is_none_or(|page| page[4000] == content));
            }
            _ => {
                let (cursor, know) = &mut senders[usize::from(content) % SENDERS];
                tell(&store, cursor, know);
            }
        }
        assert!(store.pages() <= slots);
    }
    let (cursor, know) = &mut senders[0];
    tell(&store, cursor, know);
    assert_eq!(store.news(cursor), StoreNews::default(), "the news comes twice");
}

use super::*;

struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn scratch(name: &str) -> Scratch {
    Scratch(std::env::temp_dir().join(format!("transhume-spool-{}-{name}", std::process::id())))
}

fn put(spool: &mut Spool, frame: &[u8]) {
    let room = spool.room().unwrap();
    room[12..12 + frame.len()].copy_from_slice(frame);
    spool.publish(Kind::Unicast, 12 + frame.len());
}

#[test]
fn frames_survive_the_agent() {
    let path = scratch("survive");
    let mut spool = Spool::create(&path.0, 1 << 20, 12).unwrap();
    put(&mut spool, &[1; 60]);
    put(&mut spool, &[2; 61]);
    spool.set_note(Note::Delivered, 1);
    spool.set_reading(Reading::Ended);
    drop(spool);
    let spool = Spool::reopen(&path.0).unwrap();
    assert_eq!((spool.last(), spool.note(Note::Delivered)), (2, 1));
    assert_eq!(spool.reading(), Reading::Ended);
    let second = spool.record(spool.after(1)).unwrap().unwrap();
    assert_eq!((second.number, &second.data[12..]), (2, &[2; 61][..]));
}

#[test]
fn a_frame_read_but_not_published_is_found() {
    let path = scratch("unpublished");
    let mut spool = Spool::create(&path.0, 1 << 20, 12).unwrap();
    put(&mut spool, &[1; 60]);
    spool.room().unwrap()[12..72].fill(9);
    drop(spool);
    let mut spool = Spool::reopen(&path.0).unwrap();
    assert_eq!(spool.unpublished(), Some(72));
    spool.skip(72);
    assert_eq!(spool.unpublished(), None);
}

#[test]
fn records_arrive_in_pieces() {
    let (from, to) = (scratch("from"), scratch("to"));
    let mut sender = Spool::create(&from.0, 1 << 20, 12).unwrap();
    put(&mut sender, &[1; 60]);
    put(&mut sender, &[2; 1000]);
    let mut receiver = Spool::create(&to.0, 1 << 20, 12).unwrap();
    let mut partial = 0;
    for byte in sender.stretch(sender.start()) {
        receiver.intake(partial, 1).unwrap()[0] = *byte;
        partial = receiver.accept(partial + 1).unwrap();
    }
    assert_eq!((partial, receiver.last()), (0, 2));
    assert_eq!(receiver.stretch(receiver.start()), sender.stretch(sender.start()));
}

#[test]
fn no_two_notes_share_a_word_and_none_lies_among_the_records() {
    let path = scratch("notes");
    let mut spool = Spool::create(&path.0, 1 << 20, 12).unwrap();
    let notes = [
        Note::Delivered,
        Note::PutBack,
        Note::Reading,
        Note::Signature,
        Note::DroppedBefore,
        Note::Refused,
        Note::Undelivered,
        Note::UndeliveredBroadcast,
        Note::Untaken,
        Note::OldPath,
        Note::Overflowed,
        Note::Unfit,
    ];
    for (value, note) in (1..).zip(notes) {
        spool.set_note(note, value);
    }
    put(&mut spool, &[1; 60]);
    let read: Vec<u64> = notes.iter().map(|note| spool.note(*note)).collect();
    assert_eq!(read, (1..=notes.len() as u64).collect::<Vec<_>>());
    assert_eq!((spool.vnet_header_bytes(), spool.last()), (12, 1));
}

#[test]
fn records_are_counted_up_to_a_number() {
    let path = scratch("counts");
    let mut spool = Spool::create(&path.0, 1 << 20, 12).unwrap();
    assert!(spool.publish_address("00:00:5e:00:01:07".parse().unwrap()));
    put(&mut spool, &[1; 60]);
    spool.publish(Kind::Fin, 0);
    put(&mut spool, &[2; 60]);
    spool.publish(Kind::Close, 0);
    let counts = spool.counts(4);
    assert_eq!((counts.unicast, counts.bytes, counts.late), (2, 120, 1));
    assert_eq!((counts.fin, counts.close), (true, false));
    assert!(spool.counts(5).close);
    let addresses = spool.addresses("52:54:00:00:00:01".parse().unwrap());
    assert_eq!(addresses.others().len(), 1);
}

#[test]
fn a_spool_that_is_not_there_is_said_to_be_gone() {
    let path = scratch("gone");
    assert!(matches!(Spool::reopen(&path.0), Err(Error::NoSpool { .. })));
}

#[test]
fn hostile_records_are_refused() {
    let path = scratch("hostile");
    let mut spool = Spool::create(&path.0, 1 << 20, 12).unwrap();
    spool.intake(0, 16).unwrap().copy_from_slice(&[9; 16]);
    assert_eq!(spool.accept(16), Err(RecordError::Kind(0x0909_0909)));
    let long: Vec<u8> = [1u32.to_le_bytes(), u32::MAX.to_le_bytes(), [0; 4], [0; 4]].concat();
    spool.intake(0, 16).unwrap().copy_from_slice(&long);
    assert_eq!(spool.accept(16), Err(RecordError::Length(u32::MAX)));
}

#[test]
fn a_number_out_of_turn_stays_out() {
    let (from, to) = (scratch("turn-from"), scratch("turn-to"));
    let mut sender = Spool::create(&from.0, 1 << 20, 12).unwrap();
    put(&mut sender, &[1; 60]);
    put(&mut sender, &[2; 60]);
    let second = sender.stretch(sender.after(1)).to_vec();
    let mut receiver = Spool::create(&to.0, 1 << 20, 12).unwrap();
    receiver.intake(0, second.len()).unwrap().copy_from_slice(&second);
    assert_eq!(
        receiver.accept(second.len()),
        Err(RecordError::Gap { number: 2, last: 0 })
    );
    let all = sender.stretch(sender.start()).to_vec();
    receiver.intake(0, all.len()).unwrap().copy_from_slice(&all);
    assert_eq!(receiver.accept(all.len()), Ok(0));
    receiver.intake(0, second.len()).unwrap().copy_from_slice(&second);
    assert_eq!(
        receiver.accept(second.len()),
        Err(RecordError::Again { number: 2, last: 2 })
    );
    assert_eq!(receiver.last(), 2);
}

#[test]
fn a_full_spool_has_no_room() {
    let path = scratch("full");
    let mut spool = Spool::create(&path.0, 4096, 12).unwrap();
    let mut frames = 0;
    while spool.room().is_some() {
        spool.publish(Kind::Unicast, 1024);
        frames += 1;
    }
    assert!((4..200).contains(&frames), "{frames}");
    // Found in a lab with a small limit: what was left in the tap's ring came before what was here.
    let mut again = Spool::reopen(&path.0).unwrap();
    assert!(again.room().is_none(), "the limit is the same");
    for spool in [&mut spool, &mut again] {
        spool.make_room_for_a_ring();
    }
    for _ in 0..16_384 {
        assert!(spool.room().is_some());
        spool.publish(Kind::Unicast, 1514);
    }
    let (record, next) = ((16 + 1514usize).next_multiple_of(8), again.tail());
    assert_eq!(spool.tail() - next, 16_384 * record);
}

/// Where the records are; behind them come a GiB of zeroes.
fn front(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 16 << 10];
    let file = File::open(path).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
    bytes
}

#[test]
fn a_damaged_spool_is_none() {
    let path = scratch("damaged");
    let mut spool = Spool::create(&path.0, 1 << 20, 12).unwrap();
    put(&mut spool, &[1; 60]);
    put(&mut spool, &[2; 60]);
    drop(spool);
    let whole = front(&path.0);
    let second = (RECORDS_AT + RECORD_HEADER_BYTES + 72).next_multiple_of(8);
    let refused = |at: usize, word: u64| {
        let mut bytes = whole.clone();
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        head(&bytes).is_none()
    };
    assert_eq!(head(&whole).map(|head| head.last), Some(2));
    // With headers longer than any frame, a frame that was just being read would be looked for
    // beyond the room for it.
    assert!(refused(0, 7) && refused(VNET_AT, u64::MAX) && refused(VNET_AT, 1 << 20));
    assert!(refused(TAIL_AT, u64::MAX) && refused(TAIL_AT, 0) && refused(TAIL_AT, second as u64 + 8));
    // Behind the last number that there is there would be no next one.
    assert!(refused(second + 8, u64::MAX) && refused(second + 8, 1));
    assert!(head(&whole[..RECORDS_AT - 1]).is_none());
}

#[test]
fn links_and_fifos_in_the_place_of_a_spool_are_not_followed() {
    let (elsewhere, path) = (scratch("elsewhere"), scratch("link"));
    drop(Spool::create(&elsewhere.0, 1 << 20, 12).unwrap());
    std::os::unix::fs::symlink(&elsewhere.0, &path.0).unwrap();
    let refused = Spool::reopen(&path.0);
    assert!(matches!(refused, Err(Error::NotASpool { .. })), "{refused:?}");
    // A new spool takes the place of the link, and leaves alone what it leads to.
    let before = front(&elsewhere.0);
    put(&mut Spool::create(&path.0, 1 << 20, 12).unwrap(), &[1; 60]);
    assert!(std::fs::symlink_metadata(&path.0).unwrap().is_file());
    assert!(front(&elsewhere.0) == before);
    std::fs::remove_file(&path.0).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &path.0, mode).unwrap();
    assert!(matches!(Spool::reopen(&path.0), Err(Error::NotASpool { .. })));
}

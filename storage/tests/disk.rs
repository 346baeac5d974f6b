//! The contract of `Disk`, told by both the real file system and the simulated disk, and the sins of the latter.

use storage::io::{
    Completion, Disk, DiskError, ErrorKind, FileId, Op, OpenOptions, Output, SimDisk, StdDisk, WriteBuf, sim::Fault,
};

const WRITE: OpenOptions = OpenOptions {
    create: true,
    exclusive: false,
    write: true,
    direct_dsync: false,
};
const DIRECT: OpenOptions = OpenOptions {
    direct_dsync: true,
    ..WRITE
};

fn open(disk: &mut dyn Disk, path: &str, options: OpenOptions) -> FileId {
    match disk.call(Op::Open {
        path: path.to_owned(),
        options,
    }) {
        Ok(Output::File(file)) => file,
        other => panic!("open {path}: {other:?}"),
    }
}

fn write(file: FileId, offset: u64, data: &[u8]) -> Op {
    Op::Write {
        file,
        offset,
        data: WriteBuf::Bytes(data.to_vec().into()),
    }
}

fn read(disk: &mut dyn Disk, file: FileId, offset: u64, len: usize) -> Vec<u8> {
    match disk.call(Op::Read { file, offset, len }) {
        Ok(Output::Data(data)) => data.to_vec(),
        other => panic!("read: {other:?}"),
    }
}

fn kind(result: Result<Output, DiskError>) -> ErrorKind {
    result.expect_err("the call must fail").kind
}

/// The same story on any disk.
fn keeps_the_contract(disk: &mut dyn Disk) {
    disk.call(Op::CreateDir("wal/deep".into())).unwrap();
    disk.call(Op::CreateDir("wal/deep".into())).unwrap();
    let file = open(disk, "wal/b", WRITE);
    open(disk, "wal/a", WRITE);
    let Output::Names(names) = disk.call(Op::List("wal".into())).unwrap() else {
        panic!("names")
    };
    assert_eq!(names, ["a", "b"]);
    assert_eq!(
        kind(disk.call(Op::Open {
            path: "none".into(),
            options: OpenOptions::default()
        })),
        ErrorKind::NotFound
    );
    let exclusive = OpenOptions {
        exclusive: true,
        ..WRITE
    };
    assert_eq!(
        kind(disk.call(Op::Open {
            path: "wal/a".into(),
            options: exclusive
        })),
        ErrorKind::Exists
    );

    let pieces = WriteBuf::Pieces(vec!["hello ".into(), "world".into()]);
    disk.submit(
        7,
        Op::Write {
            file,
            offset: 4090,
            data: pieces,
        },
    );
    disk.submit(8, Op::Sync(file));
    let mut ended: Vec<Completion> = Vec::new();
    disk.poll(&mut ended);
    assert_eq!(ended.iter().map(|c| c.token).collect::<Vec<_>>(), [7, 8]);
    assert!(ended.iter().all(|c| c.result.is_ok()));
    assert_eq!(read(disk, file, 4088, 100), b"\0\0hello world");

    let pages = disk.map(file, 1 << 20).unwrap();
    assert_eq!(pages.bytes(4090, 5), b"hello");
    disk.call(Op::Allocate {
        file,
        offset: 0,
        len: 16384,
    })
    .unwrap();
    disk.call(write(file, 12288, b"grown")).unwrap();
    assert_eq!(
        pages.bytes(12288, 5),
        b"grown",
        "growth shows in the map without remapping"
    );
    disk.call(Op::Punch {
        file,
        offset: 0,
        len: 8192,
    })
    .unwrap();
    assert_eq!(pages.bytes(4090, 5), [0; 5]);
    disk.call(Op::SetLen(file, 5000)).unwrap();
    assert!(matches!(disk.call(Op::Len(file)).unwrap(), Output::Len(5000)));
    let past_the_end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pages.bytes(5000, 1).len()));
    assert!(past_the_end.is_err());

    disk.call(Op::Lock(file)).unwrap();
    let again = open(disk, "wal/b", WRITE);
    assert_eq!(kind(disk.call(Op::Lock(again))), ErrorKind::Locked);
    disk.call(Op::Close(file)).unwrap();
    disk.call(Op::Lock(again)).unwrap();

    disk.call(Op::Rename {
        from: "wal/b".into(),
        to: "wal/c".into(),
    })
    .unwrap();
    disk.call(Op::Remove("wal/a".into())).unwrap();
    disk.call(Op::SyncDir("wal".into())).unwrap();
    disk.call(Op::SyncDir(String::new())).unwrap();
    let Output::Names(names) = disk.call(Op::List("wal".into())).unwrap() else {
        panic!("names")
    };
    assert_eq!(names, ["c"]);
    let Output::Space { total, free } = disk.call(Op::Space).unwrap() else {
        panic!("space")
    };
    assert!(free > 0 && free <= total);

    let direct = open(disk, "direct", DIRECT);
    disk.call(write(direct, 4096, &[5; 4096])).unwrap();
    assert_eq!(read(disk, direct, 4095, 2), [0, 5]);
}

#[test]
fn the_blocking_disk_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    keeps_the_contract(&mut StdDisk::new(dir.path().join("made/on/demand")).unwrap());
}

#[test]
fn the_simulated_disk_keeps_the_contract() {
    keeps_the_contract(&mut SimDisk::new());
}

#[test]
fn unsynced_names_and_writes_may_be_lost_and_synced_ones_stay() {
    let mut disk = SimDisk::new();
    let file = open(&mut disk, "f", WRITE);
    assert!(
        disk.legal_images(8, 1)
            .iter()
            .any(|image| image.file_names().is_empty())
    );
    disk.call(Op::SyncDir(String::new())).unwrap();
    disk.call(write(file, 0, &[1; 2048])).unwrap();
    disk.call(Op::Sync(file)).unwrap();
    assert_eq!(disk.pending_ops(), 0);
    disk.call(write(file, 0, &[2; 2048])).unwrap();
    let images = disk.legal_images(200, 1);
    let contents: Vec<Vec<u8>> = images.iter().map(|image| image.contents("f").unwrap()).collect();
    assert!(contents.contains(&vec![1; 2048]), "the write may be lost");
    assert!(contents.contains(&vec![2; 2048]), "the write may be kept");
    let torn = contents
        .iter()
        .filter(|bytes| bytes.contains(&1) && bytes.contains(&2))
        .count();
    assert!(torn > 10, "the write may be torn, not only {torn} times");
    for bytes in &contents {
        assert_eq!(bytes.len(), 2048);
        assert!(
            bytes
                .chunks(512)
                .all(|sector| sector.iter().all(|byte| *byte == sector[0])),
            "tears at 512 bytes"
        );
    }
    assert_eq!(
        disk.kill().contents("f").unwrap(),
        [2; 2048],
        "the end of the process loses nothing"
    );
}

#[test]
fn writes_in_flight_end_in_a_seeded_order_and_are_durable_only_then() {
    let order = |seed: u64| {
        let mut disk = SimDisk::new();
        let file = open(&mut disk, "f", DIRECT);
        disk.call(Op::SyncDir(String::new())).unwrap();
        disk.hold_completions(Some(seed));
        for at in 0..4 {
            disk.submit(at, write(file, at * 4096, &[at as u8 + 1; 4096]));
        }
        let mut order = Vec::new();
        for left in (0..4).rev() {
            assert_eq!(disk.release(1), 1);
            let mut ended = Vec::new();
            disk.poll(&mut ended);
            order.push(ended[0].token);
            assert_eq!(disk.held(), left);
            for image in disk.legal_images(20, seed) {
                let bytes = image.contents("f").unwrap();
                for done in &order {
                    let at = *done as usize * 4096;
                    assert_eq!(
                        bytes[at..at + 4096],
                        [*done as u8 + 1; 4096],
                        "seed {seed}: {done} is durable"
                    );
                }
            }
        }
        order
    };
    assert_eq!(order(3), order(3));
    let orders: std::collections::BTreeSet<Vec<u64>> = (0..20).map(order).collect();
    assert!(orders.len() > 5, "orders differ between seeds: {orders:?}");
}

#[test]
fn space_runs_out_at_the_capacity_and_calls_fail_where_told() {
    let mut disk = SimDisk::new();
    let file = open(&mut disk, "f", WRITE);
    disk.set_capacity(Some(8192));
    disk.call(Op::Allocate {
        file,
        offset: 0,
        len: 8192,
    })
    .unwrap();
    disk.call(write(file, 0, &[1; 8192])).unwrap();
    assert_eq!(
        kind(disk.call(Op::Allocate {
            file,
            offset: 8192,
            len: 1
        })),
        ErrorKind::NoSpace
    );
    assert_eq!(kind(disk.call(write(file, 8192, &[1]))), ErrorKind::NoSpace);
    disk.call(Op::Punch {
        file,
        offset: 0,
        len: 4096,
    })
    .unwrap();
    disk.call(write(file, 8192, &[1])).unwrap();

    disk.inject(Fault {
        op: Some("sync"),
        path: "f".into(),
        after: 1,
        kind: ErrorKind::Io,
    });
    disk.call(Op::Sync(file)).unwrap();
    assert_eq!(kind(disk.call(Op::Sync(file))), ErrorKind::Io);
    disk.call(Op::Sync(file)).unwrap();
    disk.power_off();
    assert_eq!(kind(disk.call(Op::Len(file))), ErrorKind::Io);
}

#[test]
fn rot_survives_everything_and_the_hook_sees_each_call() {
    let mut disk = SimDisk::new();
    let calls = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = calls.clone();
    disk.on_call(move |_| {
        seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    disk.record();
    let file = open(&mut disk, "f", DIRECT);
    disk.call(Op::SyncDir(String::new())).unwrap();
    disk.call(write(file, 0, &[0; 4096])).unwrap();
    disk.flip("f", 100, 2, 0x40);
    assert_eq!(disk.contents("f").unwrap()[99..103], [0, 0x40, 0x40, 0]);
    assert_eq!(disk.crash_image(1).contents("f").unwrap()[99..103], [0, 0x40, 0x40, 0]);
    assert_eq!(calls.load(std::sync::atomic::Ordering::Relaxed), 3);
    let verbs: Vec<&str> = disk.take_trace().iter().map(|call| call.op).collect();
    assert_eq!(verbs, ["open", "sync directory", "write"]);
}

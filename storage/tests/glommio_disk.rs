//! The io_uring disk on real file systems, alone and under the log. Skipped where io_uring is denied.

use std::{path::Path, time::Duration};

use raft::Entry;
use storage::{
    io::{Completion, Disk, ErrorKind, FileId, GlommioDisk, Op, OpenOptions, Output, WriteBuf},
    wal::{Identity, Wal, WalOptions},
};

const WRITE: OpenOptions = OpenOptions {
    create: true,
    exclusive: false,
    write: true,
    direct_dsync: false,
};

/// Runs a story on an executor of its own, or says why not.
fn on_executor<F: Future<Output = ()> + 'static>(story: impl FnOnce() -> F + Send + 'static) {
    let executor = glommio::LocalExecutorBuilder::default()
        .io_memory(1 << 20)
        .spawn(|| async move { story().await });
    match executor {
        Ok(handle) => handle.join().expect("the story panicked"),
        Err(error) => println!("skipped: needs io_uring: {error}"),
    }
}

async fn run(disk: &mut GlommioDisk, op: Op) -> Result<Output, storage::io::DiskError> {
    disk.submit(1, op);
    let mut ended: Vec<Completion> = Vec::new();
    disk.completed().await;
    disk.poll(&mut ended);
    assert_eq!(ended.len(), 1);
    ended.remove(0).result
}

async fn open(disk: &mut GlommioDisk, path: &str, options: OpenOptions) -> FileId {
    match run(
        disk,
        Op::Open {
            path: path.to_owned(),
            options,
        },
    )
    .await
    {
        Ok(Output::File(file)) => file,
        other => panic!("open {path}: {other:?}"),
    }
}

async fn keeps_the_contract(root: &Path) {
    let mut disk = GlommioDisk::new(root).await.unwrap();
    println!("direct: {}", disk.is_direct());
    run(&mut disk, Op::CreateDir("deep/er".into())).await.unwrap();
    let direct = open(
        &mut disk,
        "deep/direct",
        OpenOptions {
            direct_dsync: true,
            ..WRITE
        },
    )
    .await;
    run(
        &mut disk,
        Op::Allocate {
            file: direct,
            offset: 0,
            len: 1 << 20,
        },
    )
    .await
    .unwrap();
    for token in 0..8u64 {
        let data = WriteBuf::Pieces(vec![
            vec![token as u8 + 1; 1000].into(),
            vec![token as u8 + 1; 7192].into(),
        ]);
        disk.submit(
            10 + token,
            Op::Write {
                file: direct,
                offset: token * 8192,
                data,
            },
        );
    }
    let mut ended = Vec::new();
    while ended.len() < 8 {
        disk.completed().await;
        disk.poll(&mut ended);
    }
    assert!(ended.iter().all(|completion| completion.result.is_ok()), "{ended:?}");
    for token in 0..8u64 {
        let read = run(
            &mut disk,
            Op::Read {
                file: direct,
                offset: token * 8192,
                len: 8192,
            },
        )
        .await
        .unwrap();
        let Output::Data(data) = read else { panic!("data") };
        assert!(data.len() == 8192 && data.iter().all(|byte| *byte == token as u8 + 1));
    }

    let file = open(&mut disk, "deep/er/file", WRITE).await;
    run(
        &mut disk,
        Op::Rename {
            from: "deep/er/file".into(),
            to: "deep/renamed".into(),
        },
    )
    .await
    .unwrap();
    run(
        &mut disk,
        Op::Write {
            file,
            offset: 3,
            data: WriteBuf::Bytes("hello".into()),
        },
    )
    .await
    .unwrap();
    run(&mut disk, Op::Sync(file)).await.unwrap();
    let pages = disk.map(file, 1 << 20).unwrap();
    assert_eq!(pages.bytes(0, 8), b"\0\0\0hello");
    run(&mut disk, Op::Lock(file)).await.unwrap();
    let again = open(&mut disk, "deep/renamed", WRITE).await;
    assert_eq!(
        run(&mut disk, Op::Lock(again)).await.unwrap_err().kind,
        ErrorKind::Locked
    );
    run(&mut disk, Op::Close(file)).await.unwrap();
    run(&mut disk, Op::Lock(again)).await.unwrap();
    run(&mut disk, Op::SyncDir("deep".into())).await.unwrap();
    let missing = Op::Open {
        path: "none".into(),
        options: OpenOptions::default(),
    };
    assert_eq!(run(&mut disk, missing).await.unwrap_err().kind, ErrorKind::NotFound);
    assert!(matches!(run(&mut disk, Op::Len(again)).await, Ok(Output::Len(8))));
}

async fn carries_a_log(root: &Path) {
    let identity = Identity {
        member_id: 1,
        cluster_id: 2,
    };
    let options = || WalOptions {
        segment_size_bytes: Some(1 << 20),
        ..WalOptions::default()
    };
    let mut disk = GlommioDisk::new(root).await.unwrap();
    let (mut wal, _) = Wal::open(&mut disk, options(), Some(identity)).unwrap();
    let mut ended = Vec::new();
    for index in 1..=2000u64 {
        let token = wal.append(&[Entry::normal(1, index, vec![index as u8; 1500])], None, None);
        wal.pump(&mut disk).unwrap();
        while wal.queued_bytes() > 100_000 || (index == 2000 && wal.persisted() < token) {
            disk.completed().await;
            disk.poll(&mut ended);
            for completion in ended.drain(..) {
                wal.on_completion(&mut disk, completion).unwrap();
            }
        }
    }
    assert!(wal.segment_count() > 2);
    let mut disk = GlommioDisk::new(root).await.unwrap();
    let (_, recovered) = Wal::open(&mut disk, options(), None).unwrap();
    assert_eq!(recovered.entries.len(), 2000);
    assert_eq!(recovered.entries[1999].data, vec![2000u64 as u8; 1500]);
}

/// Submits a durable block of `byte`s at that block.
fn submit_block(disk: &mut GlommioDisk, file: FileId, block: u64, byte: u8) {
    let data = WriteBuf::Bytes(vec![byte; 4096].into());
    let offset = block * 4096;
    disk.submit(block, Op::Write { file, offset, data });
}

async fn end_all(disk: &mut GlommioDisk, count: usize) {
    let mut ended = Vec::new();
    while ended.len() < count {
        disk.completed().await;
        disk.poll(&mut ended);
    }
    assert!(ended.iter().all(|completion| completion.result.is_ok()), "{ended:?}");
}

async fn writes_alone(root: &Path) {
    const LONG: Duration = Duration::from_secs(60);
    let mut disk = GlommioDisk::new(root).await.unwrap();
    let durable = OpenOptions {
        direct_dsync: true,
        ..WRITE
    };
    let file = open(&mut disk, "log", durable).await;
    submit_block(&mut disk, file, 0, 1);
    assert!(disk.launch(true), "it may be alone");
    glommio::executor().yield_now().await;
    assert!(!disk.wait_for_lone(LONG), "the first write opens the file on the ring");
    end_all(&mut disk, 1).await;

    submit_block(&mut disk, file, 1, 2);
    assert!(disk.launch(true));
    glommio::executor().yield_now().await;
    assert!(
        !disk.wait_for_lone(LONG),
        "nobody knows yet how long such a write takes"
    );
    end_all(&mut disk, 1).await;

    submit_block(&mut disk, file, 2, 3);
    assert!(disk.launch(true));
    glommio::executor().yield_now().await;
    assert!(disk.wait_for_lone(LONG), "now it does");
    submit_block(&mut disk, file, 3, 4);
    end_all(&mut disk, 2).await;

    // Those that are under way together are the ring's, and so is one that comes while another is with the thread.
    submit_block(&mut disk, file, 4, 5);
    submit_block(&mut disk, file, 5, 6);
    assert!(!disk.launch(true));
    end_all(&mut disk, 2).await;
    submit_block(&mut disk, file, 6, 7);
    assert!(disk.launch(true));
    glommio::executor().yield_now().await;
    submit_block(&mut disk, file, 7, 8);
    assert!(disk.launch(true));
    end_all(&mut disk, 2).await;

    let (len, offset) = (8 * 4096, 0);
    let Ok(Output::Data(data)) = run(&mut disk, Op::Read { file, offset, len }).await else {
        panic!("data")
    };
    let expected: Vec<u8> = (1..=8).flat_map(|byte| [byte; 4096]).collect();
    assert!(data == expected, "every block holds what was written to it");
}

#[test]
fn a_durable_write_that_is_alone_goes_to_a_thread_and_others_to_the_ring() {
    for parent in [std::env::temp_dir(), "/dev/shm".into()] {
        let Ok(dir) = tempfile::tempdir_in(&parent) else {
            println!("skipped: needs {}", parent.display());
            continue;
        };
        let path = dir.path().to_owned();
        on_executor(|| async move { writes_alone(&path).await });
    }
}

#[test]
fn the_ring_disk_works_where_temporary_files_live() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    on_executor(|| async move { keeps_the_contract(&path).await });
}

#[test]
fn the_ring_disk_works_on_tmpfs_without_direct_io() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        return println!("skipped: needs /dev/shm");
    };
    let path = dir.path().to_owned();
    on_executor(|| async move {
        keeps_the_contract(&path).await;
        assert!(!GlommioDisk::new(&path).await.unwrap().is_direct());
    });
}

#[test]
fn the_log_works_on_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    on_executor(|| async move { carries_a_log(&path).await });
}

//! Against the real etcd, etcdctl and etcdutl: equal hashes and rows for equal histories, and files they accept.
//!
//! Skipped, with a word, where these programs are not on PATH.

use std::net::{TcpListener, TcpStream};
use std::{
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use storage::{
    bbolt::{BboltFile, Export, ExportOptions, split_trailer},
    buckets::{Bucket, meta},
    io::sim::Rng,
    mvcc::{AppliedState, Base, CompactProgress, Interval, Store, StoreError, StoreView},
};

fn scale() -> u64 {
    std::env::var("ETCORE_TEST_SCALE")
        .ok()
        .and_then(|scale| scale.parse().ok())
        .unwrap_or(1)
}

fn tools_present() -> bool {
    let runs = |name: &str, arg: &str| {
        let status = Command::new(name)
            .arg(arg)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    let present = runs("etcd", "--version") && runs("etcdctl", "version") && runs("etcdutl", "version");
    if !present {
        eprintln!("skipped: needs etcd, etcdctl and etcdutl on PATH");
    }
    present
}

fn run(name: &str, args: &[&str]) -> String {
    let output = Command::new(name).args(args).output().expect("the program starts");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{name} {args:?}: {out}{err}");
    out.into_owned()
}

/// A running etcd, ended with the value.
struct Etcd {
    child: Child,
    port: u16,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Etcd {
    fn start(data_dir: &Path, peer_port: u16) -> Etcd {
        let port = free_port();
        let (client, peer) = (
            format!("http://127.0.0.1:{port}"),
            format!("http://127.0.0.1:{peer_port}"),
        );
        let child = Command::new("etcd")
            .args(["--name", "one", "--log-level", "error", "--data-dir"])
            .arg(data_dir)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        let etcd = Etcd { child, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !etcd
            .try_post("kv/range", r#"{"key":"AA=="}"#)
            .is_some_and(|answer| answer.contains("raft_term"))
        {
            assert!(Instant::now() < deadline, "etcd serves within 20 s");
            std::thread::sleep(Duration::from_millis(50));
        }
        etcd
    }

    fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn try_post(&self, path: &str, body: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let head = format!("POST /v3/{path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }

    fn post(&self, path: &str, body: &str) -> String {
        let answer = self.try_post(path, body).expect("etcd answers");
        assert!(!answer.contains("\"code\":"), "{path} {body}: {answer}");
        answer
    }

    /// Hash and compacted revision, or the error.
    fn hash_kv(&self, revision: i64) -> Result<(u32, i64), String> {
        let answer = self
            .try_post("maintenance/hashkv", &format!(r#"{{"revision":{revision}}}"#))
            .expect("an answer");
        match number(&answer, "hash") {
            Some(hash) => Ok((hash as u32, number(&answer, "compact_revision").unwrap_or(0))),
            None => Err(answer),
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

/// The number behind `"name":`, quoted or not.
fn number(json: &str, name: &str) -> Option<i64> {
    let (_, rest) = json.split_once(&format!("\"{name}\":"))?;
    let rest = rest.trim_start_matches([' ', '"']);
    let end = rest
        .find(|c: char| c != '-' && !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().fold(0u32, |n, byte| n << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(n >> (18 - 6 * at)) as usize & 63] as char;
            out.push(if at > chunk.len() { '=' } else { digit });
        }
    }
    out
}

fn put_json(key: &[u8], value: &[u8], lease: i64) -> String {
    format!(
        r#"{{"key":"{}","value":"{}","lease":"{lease}"}}"#,
        base64(key),
        base64(value)
    )
}

fn delete_json(interval: Interval<'_>) -> String {
    format!(
        r#"{{"key":"{}","range_end":"{}"}}"#,
        base64(interval.key),
        base64(interval.range_end)
    )
}

fn view(store: &mut Store) -> StoreView {
    store.seal_block(AppliedState {
        index: 9,
        term: 2,
        ..AppliedState::default()
    });
    store.view()
}

fn hash_kv(view: &StoreView, revision: i64) -> Result<(u32, i64), StoreError> {
    let done = view.hash_kv(revision)?.step(usize::MAX)?.expect("all in one step");
    Ok((done.hash, done.compact_revision))
}

/// What a compaction left behind: revision, hash and the compacted revision before it.
type CompactionHashes = Vec<(i64, u32, i64)>;

/// One random change on both sides.
fn change(rng: &mut Rng, etcd: &Etcd, store: &mut Store) {
    let key = |rng: &mut Rng| format!("key/{:03}", rng.below(30)).into_bytes();
    let value = |rng: &mut Rng| vec![b'v'; rng.below(60) as usize];
    let mut txn = store.begin();
    match rng.below(10) {
        0..5 => {
            let (key, value, lease) = (key(rng), value(rng), rng.below(3) as i64);
            etcd.post("kv/put", &put_json(&key, &value, lease));
            txn.put(&key, &value, lease);
        }
        5..8 => {
            let (key, end) = (key(rng), if rng.below(3) == 0 { key(rng) } else { Vec::new() });
            let interval = Interval {
                key: &key,
                range_end: &end,
            };
            etcd.post("kv/deleterange", &delete_json(interval));
            txn.delete_range(interval);
        }
        _ => {
            let gone = key(rng);
            let mut ops = vec![format!(
                r#"{{"request_delete_range":{}}}"#,
                delete_json(Interval::single(&gone))
            )];
            txn.delete_range(Interval::single(&gone));
            for n in 0..=rng.below(4) {
                let (key, value) = (format!("txn/{n}/{}", rng.below(4)).into_bytes(), value(rng));
                ops.push(format!(r#"{{"request_put":{}}}"#, put_json(&key, &value, 0)));
                txn.put(&key, &value, 0);
            }
            etcd.post("kv/txn", &format!(r#"{{"success":[{}]}}"#, ops.join(",")));
        }
    }
    txn.end();
}

fn compare_hashes(rng: &mut Rng, etcd: &Etcd, view: &StoreView, cached: &CompactionHashes) {
    let (compacted, now) = (view.compact_revision(), view.revision());
    let between = compacted.max(1) + rng.below((now - compacted.max(1) + 1) as u64) as i64;
    for revision in [
        0,
        compacted - 1,
        compacted,
        compacted + 1,
        between,
        now - 1,
        now,
        now + 1,
    ] {
        if revision < 0 {
            continue;
        }
        let ours = match cached.iter().find(|(compaction, ..)| *compaction == revision) {
            Some((_, hash, before)) => Ok((*hash, *before)),
            None => hash_kv(view, revision),
        };
        match (etcd.hash_kv(revision), ours) {
            (Ok(theirs), Ok(ours)) => assert_eq!(ours, theirs, "revision {revision}, compacted {compacted}"),
            (Err(theirs), Err(StoreError::Compacted { .. })) => assert!(theirs.contains("compacted"), "{theirs}"),
            (Err(theirs), Err(StoreError::FutureRevision { .. })) => assert!(theirs.contains("future"), "{theirs}"),
            (theirs, ours) => panic!("revision {revision}, compacted {compacted}: etcd {theirs:?}, we {ours:?}"),
        }
    }
}

fn compact_both(etcd: &Etcd, store: &mut Store, revision: i64, cached: &mut CompactionHashes) {
    let before = view(store);
    let body = format!(r#"{{"revision":{revision},"physical":true}}"#);
    match store.compact(revision) {
        Ok(()) => {
            etcd.post("kv/compaction", &body);
            let done = before
                .compaction_hash(revision)
                .and_then(|mut job| job.step(usize::MAX));
            let done = done.expect("good rows").expect("all in one step");
            cached.push((revision, done.hash, done.compact_revision));
            if cached.len() > 10 {
                cached.remove(0);
            }
        }
        Err(ours) => {
            let theirs = etcd.try_post("kv/compaction", &body).expect("an answer");
            assert!(theirs.contains("\"code\":"), "{ours}; etcd: {theirs}");
        }
    }
}

fn rows(base: &dyn Base, bucket: Bucket) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut walk = base.scan(bucket, b"").expect("it opens");
    let mut all = Vec::new();
    while let Some((key, value)) = walk.next().expect("a good page") {
        all.push((key.to_vec(), value.to_vec()));
    }
    all
}

#[test]
fn equal_histories_give_the_hashes_and_the_rows_of_etcd() {
    if !tools_present() {
        return;
    }
    for seed in 11..11 + 2 * scale() {
        let dir = tempfile::tempdir().expect("a directory");
        let etcd = Etcd::start(&dir.path().join("data"), free_port());
        let (mut rng, mut store) = (Rng::new(seed), Store::new());
        let mut cached = CompactionHashes::new();
        println!("seed {seed}");
        for lease in 1..3 {
            etcd.post("lease/grant", &format!(r#"{{"TTL":"36000","ID":"{lease}"}}"#));
        }
        for n in 1..=300 {
            change(&mut rng, &etcd, &mut store);
            if n % 40 == 0 {
                let revision = store.compact_revision().max(0)
                    + rng.below((store.revision() - store.compact_revision().max(0) + 2) as u64) as i64;
                compact_both(&etcd, &mut store, revision, &mut cached);
                // The hash must not depend on how far the physical work is.
                let seen = view(&mut store);
                compare_hashes(&mut rng, &etcd, &seen, &cached);
                while matches!(store.compact_step(10, false), CompactProgress::Working) {}
            }
            if n % 10 == 0 {
                let seen = view(&mut store);
                compare_hashes(&mut rng, &etcd, &seen, &cached);
            }
        }
        let saved = dir.path().join("saved.db");
        let path = saved.to_str().expect("a UTF-8 path");
        run("etcdctl", &["--endpoints", &etcd.endpoint(), "snapshot", "save", path]);
        let file = split_trailer(std::fs::read(path).expect("the snapshot").into()).expect("a good trailer");
        let file = BboltFile::open(file).expect("a good file");
        file.check().expect("a good file");
        let mut ours = Vec::new();
        let seen = view(&mut store);
        let mut walk = seen.rows(Bucket::Key, b"").expect("it opens");
        while let Some((key, value)) = walk.next().expect("a good row") {
            ours.push((key.as_ref().to_vec(), value.to_vec()));
        }
        assert_eq!(ours, rows(&file, Bucket::Key), "seed {seed}");
        let mut restored = Store::restore(Arc::new(file), AppliedState::default()).expect("it restores");
        let other = view(&mut restored);
        assert_eq!(hash_kv(&other, 0).unwrap(), hash_kv(&seen, 0).unwrap());
        assert_eq!(other.revision(), seen.revision());
        let all = other
            .hash_all()
            .step(usize::MAX)
            .expect("good rows")
            .expect("all in one step");
        let theirs = etcd.post("maintenance/hash", "{}");
        assert_eq!(number(&theirs, "hash"), Some(i64::from(all)), "{theirs}");
    }
}

/// A store with some history, a compaction and deletes.
fn some_store(keys: u64) -> Store {
    let (mut rng, mut store) = (Rng::new(5), Store::new());
    for n in 0..2 * keys {
        let key = format!("key/{:06}", rng.below(keys)).into_bytes();
        let mut txn = store.begin();
        if n % 7 == 3 {
            txn.delete_range(Interval::single(&key));
        } else {
            txn.put(
                &key,
                &vec![b'x'; if n % 97 == 0 { 6000 } else { rng.below(300) as usize }],
                0,
            );
        }
        txn.end();
    }
    store.compact(store.revision() / 3).expect("never compacted before");
    while matches!(store.compact_step(1000, false), CompactProgress::Working) {}
    store
}

fn status_hash(file: &BboltFile) -> u32 {
    Bucket::ALL.into_iter().fold(0, |hash, bucket| {
        let named = crc32c::crc32c_append(hash, bucket.name().as_bytes());
        rows(file, bucket).iter().fold(named, |hash, (key, value)| {
            crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value)
        })
    })
}

#[test]
fn etcd_accepts_restores_and_serves_what_we_export() {
    if !tools_present() {
        return;
    }
    for keys in [1, 60, 20_000] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = some_store(keys);
        let seen = view(&mut store);
        let conf_state = br#"{"voters":[1],"auto_leave":false}"#.to_vec();
        let options = ExportOptions {
            meta: vec![(meta::CONF_STATE.to_vec(), conf_state)],
            trailer: true,
        };
        let mut export = Export::new(seen.clone(), options);
        while !export.plan(1 << 20).expect("a plan") {}
        let mut bytes = Vec::new();
        while let Some(piece) = export.next_piece(1 << 16).expect("a piece") {
            bytes.extend_from_slice(&piece);
        }
        let path = dir.path().join("ours.db");
        std::fs::write(&path, &bytes).expect("written");
        let path = path.to_str().expect("a UTF-8 path");

        let file = BboltFile::open(split_trailer(bytes.into()).expect("a trailer")).expect("a good file");
        let status = run("etcdutl", &["snapshot", "status", path, "-w", "json"]);
        assert_eq!(number(&status, "hash"), Some(i64::from(status_hash(&file))), "{status}");
        assert_eq!(number(&status, "revision"), Some(seen.revision()), "{status}");
        assert_eq!(
            number(&status, "totalKey"),
            Some(file.check().expect("good") as i64),
            "{status}"
        );

        let (data, peer) = (dir.path().join("data"), free_port());
        let url = format!("http://127.0.0.1:{peer}");
        let cluster = format!("one={url}");
        let data_dir = data.to_str().expect("a UTF-8 path");
        let named = [
            "--name",
            "one",
            "--initial-cluster",
            &cluster,
            "--initial-advertise-peer-urls",
            &url,
        ];
        run(
            "etcdutl",
            &[&["snapshot", "restore", path, "--data-dir", data_dir][..], &named].concat(),
        );
        let etcd = Etcd::start(&data, peer);
        let mut rng = Rng::new(keys);
        compare_hashes(&mut rng, &etcd, &seen, &Vec::new());
        let counted = etcd.post("kv/range", r#"{"key":"AA==","range_end":"AA==","count_only":true}"#);
        let count = seen.count(Interval::all(), 0).unwrap() as i64;
        assert_eq!(number(&counted, "count").unwrap_or(0), count, "{counted}");
        // It goes on from there, and still agrees.
        for n in 0..20 {
            let key = format!("key/{:06}", n * 3).into_bytes();
            etcd.post("kv/put", &put_json(&key, b"after", 0));
            let mut txn = store.begin();
            txn.put(&key, b"after", 0);
            txn.end();
        }
        let mut cached = CompactionHashes::new();
        compact_both(&etcd, &mut store, seen.revision() + 5, &mut cached);
        while matches!(store.compact_step(1000, false), CompactProgress::Working) {}
        let after = view(&mut store);
        compare_hashes(&mut rng, &etcd, &after, &cached);
    }
}

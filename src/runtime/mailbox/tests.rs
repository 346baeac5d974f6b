use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(receiver: &mut Receiver<u32>, waker: &Arc<CountingWaker>, into: &mut Vec<u32>) -> Poll<usize> {
    let waker = Waker::from(Arc::clone(waker));
    receiver.poll_recv_batch(&mut Context::from_waker(&waker), into)
}

#[test]
fn a_waiting_consumer_is_woken_once_and_takes_everything_at_once() {
    let (sender, mut receiver) = mailbox(16);
    let waker = Arc::new(CountingWaker::default());
    let mut got = Vec::new();
    assert_eq!(poll(&mut receiver, &waker, &mut got), Poll::Pending);
    for n in 0..5 {
        sender.send(n).unwrap();
    }
    assert_eq!(
        waker.0.load(Ordering::SeqCst),
        1,
        "only the first message finds a sleeper"
    );
    assert_eq!(poll(&mut receiver, &waker, &mut got), Poll::Ready(5));
    assert_eq!(got, [0, 1, 2, 3, 4]);
    sender.send(5).unwrap();
    assert_eq!(
        waker.0.load(Ordering::SeqCst),
        1,
        "a consumer that does not wait is not woken"
    );
    assert_eq!(receiver.try_recv_batch(&mut got), 1);
    assert_eq!(got, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn new_work_is_refused_at_the_bound_and_answers_are_not() {
    let (sender, mut receiver) = mailbox(2);
    sender.try_send(1).unwrap();
    sender.try_send(2).unwrap();
    assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
    sender.send(4).unwrap();
    assert_eq!(sender.queued(), 3);
    let mut got = Vec::new();
    receiver.try_recv_batch(&mut got);
    let mut batch = vec![5, 6, 7];
    assert_eq!(sender.try_send_batch(&mut batch), Err(TrySendError::Full(())));
    assert_eq!(batch, [7], "what did not fit stays with the caller");
    sender.send_batch(&mut batch).unwrap();
    assert!(batch.is_empty());
    receiver.try_recv_batch(&mut got);
    assert_eq!(got, [1, 2, 4, 5, 6, 7]);
}

#[test]
fn each_side_learns_that_the_other_has_ended() {
    let (sender, mut receiver) = mailbox(2);
    let waker = Arc::new(CountingWaker::default());
    let mut got = Vec::new();
    let second = sender.clone();
    assert_eq!(poll(&mut receiver, &waker, &mut got), Poll::Pending);
    drop(sender);
    assert_eq!(waker.0.load(Ordering::SeqCst), 0);
    drop(second);
    assert_eq!(waker.0.load(Ordering::SeqCst), 1);
    assert_eq!(poll(&mut receiver, &waker, &mut got), Poll::Ready(0));

    let (sender, receiver) = mailbox(2);
    drop(receiver);
    assert!(sender.is_closed());
    assert_eq!(sender.send(1), Err(Closed));
    assert_eq!(sender.try_send(1), Err(TrySendError::Closed(1)));
    let mut batch = vec![1];
    assert_eq!(sender.send_batch(&mut batch), Err(Closed));
    assert_eq!(batch, [1]);
}

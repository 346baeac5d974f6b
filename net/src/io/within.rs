//! Work that is given up when it takes too long.

use std::{future::Future, time::Duration};

/// What `work` comes to; none when it takes longer than `patience`: it is dropped then.
pub async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> Option<T> {
    let work = async { Ok::<_, glommio::GlommioError<()>>(work.await) };
    glommio::timer::timeout(patience, work).await.ok()
}

//! Connections to loopback addresses of the pod's network namespace on the host, which go on to those of
//! the guest: that is how a CRI plugin forwards a port.
//!
//! ```text
//!  client ── 127.0.0.1:PORT ── this ── vsock ── agent ── 127.0.0.1:PORT ── program
//! ```

use super::Pod;
use super::error::PodError;
use crate::network::Loopback;
use agent_protocol::MAX_FORWARDS;
use futures_util::future::join_all;
use rustix::net::sockopt::set_socket_linger;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long a side may take nothing of what is there for it, and how long the second side may say nothing
/// when the first one has ended: who has left without a word looks like one who waits for an answer.
const PATIENCE: Duration = Duration::from_secs(300);
/// Bytes on their way in one direction.
const CHUNK: usize = 16 << 10;
/// Before connections are taken again when the host had no descriptor for one.
const PAUSE: Duration = Duration::from_millis(100);

impl Pod {
    /// Takes connections until the machine's end, if this is a pod with a namespace of the host's. A host
    /// that cannot do so has pods all the same.
    pub(super) fn forward_ports(&self) {
        let Some(namespace) = self.inner.membership.network.as_deref() else { return };
        if self.inner.is_alone {
            return;
        }
        let Loopback { listeners, link } = match Loopback::listen(namespace) {
            Ok(loopback) => loopback,
            Err(error) => return cannot(&error),
        };
        let listeners: io::Result<Vec<TcpListener>> =
            listeners.into_iter().map(TcpListener::from_std).collect();
        let listeners = match listeners {
            Ok(listeners) => listeners,
            Err(error) => return cannot(&error),
        };
        let pod = self.clone();
        drop(tokio::spawn(async move {
            let places = Arc::new(Semaphore::new(MAX_FORWARDS));
            let all = join_all(listeners.iter().map(|listener| pod.take(listener, &places)));
            tokio::select! {
                _ = all => {}
                _ = pod.inner.machine.ended() => {}
            }
            drop(link);
        }));
    }

    /// For ever.
    async fn take(&self, listener: &TcpListener, places: &Arc<Semaphore>) {
        loop {
            let Ok((client, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let Ok(place) = Arc::clone(places).try_acquire_owned() else {
                tracing::warn!("{MAX_FORWARDS} connections to ports of this pod exist");
                reset(&client);
                continue;
            };
            let pod = self.clone();
            drop(tokio::spawn(async move {
                pod.forward(client).await;
                drop(place);
            }));
        }
    }

    async fn forward(&self, client: TcpStream) {
        let Ok(asked) = client.local_addr() else { return };
        match self.connect_port(asked.port()).await {
            // How it ends is the business of the two.
            Ok(guest) => drop(carry(client, guest, PATIENCE).await),
            Err(error) => {
                tracing::info!("port {}: {}", asked.port(), crate::text::chain(&error));
                reset(&client);
            }
        }
    }

    async fn connect_port(&self, port: u16) -> Result<UnixStream, PodError> {
        let stream = self.ports()?;
        let (ours, theirs) = StdUnixStream::pair().map_err(PodError::Sockets)?;
        ours.set_nonblocking(true).map_err(PodError::Sockets)?;
        let ours = UnixStream::from_std(ours).map_err(PodError::Sockets)?;
        self.listen(vec![(stream, theirs.into())]).await?;
        match self.inner.client.forward_port(port, stream, self.inner.deadline).await {
            Ok(()) => Ok(ours),
            Err(error) => Err(self.agent_error("connecting to the port", error).await),
        }
    }
}

fn cannot(error: &dyn std::error::Error) {
    tracing::warn!("ports of this pod cannot be forwarded: {}", crate::text::chain(error));
}

/// The client is told that nobody is there.
fn reset(client: &TcpStream) {
    // Otherwise it sees an end.
    let _ = set_socket_linger(client, Some(Duration::ZERO));
}

/// Until both have ended, or one is gone.
async fn carry(client: TcpStream, guest: UnixStream, patience: Duration) -> io::Result<()> {
    let (client_in, client_out) = client.into_split();
    let (guest_in, guest_out) = guest.into_split();
    let one_ended = AtomicBool::new(false);
    let up = pass(client_in, guest_out, &one_ended, patience);
    let down = pass(guest_in, client_out, &one_ended, patience);
    tokio::try_join!(up, down).map(drop)
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    one_ended: &AtomicBool,
    patience: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = match timeout(patience, from.read(&mut buffer)).await {
            Ok(count) => count?,
            Err(_) if one_ended.load(Ordering::Relaxed) => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(_) => continue,
        };
        if count == 0 {
            break;
        }
        let bytes = buffer.get(..count).unwrap_or_default();
        timeout(patience, to.write_all(bytes)).await??;
    }
    one_ended.store(true, Ordering::Relaxed);
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both sides of a connection that is carried, and how it ends.
    async fn carried(
        patience: Duration,
    ) -> (TcpStream, UnixStream, tokio::task::JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (taken, _) = listener.accept().await.unwrap();
        let (guest, ours) = UnixStream::pair().unwrap();
        (client, guest, tokio::spawn(carry(taken, ours, patience)))
    }

    #[tokio::test]
    async fn each_direction_ends_by_itself() {
        let (mut client, mut guest, carried) = carried(PATIENCE).await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        guest.read_to_string(&mut heard).await.unwrap();
        guest.write_all(b"answer").await.unwrap();
        drop(guest);
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "questionanswer");
        carried.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_has_left_is_not_waited_for_for_ever() {
        let (client, mut guest, carried) = carried(Duration::from_millis(50)).await;
        drop(client);
        assert_eq!(guest.read(&mut [0]).await.unwrap(), 0);
        let error = carried.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_reset_is_no_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (taken, _) = listener.accept().await.unwrap();
        reset(&taken);
        drop(taken);
        let error = client.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

//! Connections to programs that listen at loopback addresses.

use crate::guest::{Guest, SOON, kind, start};
use agent_client::ClientError;
use agent_protocol::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;

/// Both ends of a connection to a program at this address.
async fn connect(guest: &mut Guest, address: &str) -> (UnixStream, TcpStream) {
    let program = TcpListener::bind(address).await.unwrap();
    let port = program.local_addr().unwrap().port();
    let (stream, listener) = guest.stream();
    let forwarded = guest.client.forward_port(port, stream, SOON);
    let (forwarded, host, program) =
        timeout(SOON, async { tokio::join!(forwarded, listener.accept(), program.accept()) })
            .await
            .expect("both sides are connected");
    forwarded.unwrap();
    (host.unwrap().0, program.unwrap().0)
}

/// Says and hears something on both sides, of which one has ended its sending.
async fn exchange(host: &mut UnixStream, program: &mut TcpStream) {
    let all: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let (mut up, mut down) = (Vec::new(), Vec::new());
    host.write_all(b"question").await.unwrap();
    host.shutdown().await.unwrap();
    timeout(SOON, program.read_to_end(&mut down)).await.expect("an end").unwrap();
    assert_eq!(down, b"question");
    let answer = async {
        program.write_all(&all).await.unwrap();
        program.shutdown().await.unwrap();
    };
    let (read, ()) = timeout(SOON, async { tokio::join!(host.read_to_end(&mut up), answer) })
        .await
        .expect("an end");
    read.unwrap();
    assert!(up == all, "{} bytes of {}", up.len(), all.len());
}

#[tokio::test]
async fn a_program_is_reached_by_both_families_and_each_direction_ends_by_itself() {
    let Some(mut guest) = start().await else { return };
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let has_family = TcpListener::bind(address).await.is_ok();
        if !has_family {
            continue;
        }
        let (mut host, mut program) = connect(&mut guest, address).await;
        exchange(&mut host, &mut program).await;
    }
    guest.stop().await;
}

#[tokio::test]
async fn a_port_without_a_program_is_refused_and_its_stream_closed() {
    let Some(mut guest) = start().await else { return };
    // Nobody listens where somebody has.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let (stream, listener) = guest.stream();
    let refused = guest.client.forward_port(port, stream, SOON).await;
    let Err(ClientError::Agent(error)) = &refused else { panic!("{refused:?}") };
    assert_eq!(error.errno, 111, "{error}");
    assert!(error.message.contains(&port.to_string()), "{error}");
    assert_eq!(kind(refused), ErrorKind::Failed);
    let (mut host, _) = timeout(SOON, listener.accept()).await.expect("it connects").unwrap();
    assert_eq!(timeout(SOON, host.read(&mut [0])).await.expect("an end").unwrap(), 0);
    guest.stop().await;
}

#[tokio::test]
async fn who_closes_is_missed_by_the_other_side() {
    let Some(mut guest) = start().await else { return };
    let (mut host, mut program) = connect(&mut guest, "127.0.0.1:0").await;
    host.write_all(b"last words").await.unwrap();
    drop(host);
    let mut heard = [0; 10];
    timeout(SOON, program.read_exact(&mut heard)).await.expect("bytes").unwrap();
    assert_eq!(&heard, b"last words");
    assert!(matches!(
        timeout(SOON, program.read(&mut heard)).await.expect("an end"),
        Ok(0) | Err(_)
    ));

    let (mut host, program) = connect(&mut guest, "127.0.0.1:0").await;
    drop(program);
    assert_eq!(timeout(SOON, host.read(&mut heard)).await.expect("an end").unwrap(), 0);
    guest.stop().await;
}

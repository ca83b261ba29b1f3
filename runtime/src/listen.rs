//! TCP listeners of the programs' servers, for IPv4 and IPv6.

use crate::error::StartupError;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;

/// Connections that wait in the kernel.
const BACKLOG: i32 = 1024;

/// Listens on TCP, for `what`, whose address is given with `flag` (in errors). `[::]` is all addresses of both families, and those of IPv4 where there is no IPv6.
/// Returns the listener and its address. A peer by IPv4 has a mapped address then: [`std::net::IpAddr::to_canonical`].
///
/// # Errors
/// `E-PORT-IN-USE`, `E-BIND`.
pub fn bind(listen: SocketAddr, what: &str, flag: &str) -> Result<(TcpListener, SocketAddr), StartupError> {
    let all_addresses = listen.is_ipv6() && listen.ip().is_unspecified();
    let attempt = match open(listen) {
        Err(e) if all_addresses && is_without_ipv6(&e) => open((Ipv4Addr::UNSPECIFIED, listen.port()).into()),
        attempt => attempt,
    };
    attempt.map_err(|e| bind_error(listen, what, flag, &e))
}

fn open(listen: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    if listen.is_ipv6() {
        socket.set_only_v6(!listen.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn bind_error(listen: SocketAddr, what: &str, flag: &str, error: &io::Error) -> StartupError {
    let port = listen.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => StartupError::runtime(
            "E-PORT-IN-USE",
            format!("{what} cannot listen on {listen}: another program has TCP port {port}"),
            format!(
                "choose another port with {flag} ADDRESS:PORT, or see who has it: ss -ltnp 'sport = :{port}'"
            ),
        ),
        io::ErrorKind::PermissionDenied => StartupError::runtime(
            "E-BIND",
            format!("{what} cannot listen on {listen}: ports below 1024 need a privilege"),
            format!("choose a port above 1023 with {flag} ADDRESS:PORT"),
        ),
        io::ErrorKind::AddrNotAvailable => StartupError::runtime(
            "E-BIND",
            format!("{what} cannot listen on {listen}: this machine does not have that address"),
            format!(
                "{flag} 127.0.0.1:{port} for this machine alone, or {flag} [::]:{port} for all its addresses"
            ),
        ),
        _ => StartupError::runtime(
            "E-BIND",
            format!("{what} cannot listen on {listen}: {error}"),
            format!("choose another address with {flag} ADDRESS:PORT"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families() {
        let (listener, bound) = bind((Ipv6Addr::UNSPECIFIED, 0).into(), "a test", "--test").unwrap();
        let by_ipv4 = TcpStream::connect((Ipv4Addr::LOCALHOST, bound.port())).await.unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip().to_canonical(), Ipv4Addr::LOCALHOST);
        drop(by_ipv4);
        if bound.is_ipv6() {
            let _by_ipv6 = TcpStream::connect((Ipv6Addr::LOCALHOST, bound.port())).await.unwrap();
            assert_eq!(listener.accept().await.unwrap().1.ip(), Ipv6Addr::LOCALHOST);
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_in_one_family_is_taken() {
        let taken = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = bind((Ipv6Addr::UNSPECIFIED, port).into(), "a test", "--test").unwrap_err();
        assert_eq!(error.code, "E-PORT-IN-USE");
        assert!(error.hint.contains("--test ADDRESS:PORT"), "{error}");
    }
}

//! The HTTP server: small questions, small answers, and nobody who can hold it.
use std::{
    collections::VecDeque,
    convert::Infallible,
    future::pending,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd as _,
    sync::Arc,
    time::Duration,
};

use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt::Ipv6V6Only};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{Listen, negotiate::Format};
use crate::health::Problems;

/// Connections at a time. One more ends the oldest: who is served takes milliseconds, who holds a connection does not.
const MAX_CONNECTIONS: usize = 64;
/// From a connection's first byte to the last of its answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// For the head of a request.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// The head of a request, at most; the smallest that the server takes.
const MAX_HEAD: usize = 8192;
const MAX_HEADERS: usize = 32;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;
/// Until an address that cannot be had is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// After a failure to accept, which is a shortage of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers questions.
pub(super) trait Site: Send + Sync + 'static {
    /// The answer to a path; none where there is nothing.
    fn get(&self, path: &str, format: Format) -> Option<Answer>;
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// A site, its address, and the option that gave it.
pub(super) struct Port {
    pub(super) option: &'static str,
    pub(super) listen: Listen,
    pub(super) site: Arc<dyn Site>,
}

/// Serves for ever. An address that cannot be had is a problem until it can.
pub(super) async fn serve(port: &Port, problems: &Problems) {
    let Some(address) = port.listen.address() else { return pending().await };
    let listener = loop {
        match bind(address) {
            Ok(listener) => break listener,
            Err(error) => problems.report(
                port.option,
                &format!(
                    "cannot listen at {}: {error}; nothing is answered there until that works, which is tried again: find out \
                     who has the port (`ss -ltnp`), or choose another",
                    port.listen
                ),
            ),
        }
        sleep(RETRY).await;
    };
    problems.resolve(port.option);
    tracing::info!("listening at {} ({})", port.listen, port.option);
    accept(&listener, &port.site).await;
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match listen(address) {
        // A node without IPv6.
        Err(error) if address.is_ipv6() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        done => done,
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        setsockopt(&socket.as_fd(), Ipv6V6Only, &false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: &TcpListener, site: &Arc<dyn Site>) {
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.retain(|connection| !connection.is_finished());
                if connections.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = connections.pop_front()
                {
                    oldest.abort();
                }
                connections.push_back(tokio::spawn(converse(stream, Arc::clone(site))).abort_handle());
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One question, one answer.
async fn converse(stream: TcpStream, site: Arc<dyn Site>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = respond(&*site, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Who went away or took too long has got what there was.
    let _over = timeout(DEADLINE, connection).await;
}

fn respond<B>(site: &dyn Site, request: &Request<B>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response =
            response(Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let answer = site.get(request.uri().path(), Format::accepted(request.headers()));
    response(answer.unwrap_or_else(|| Answer::text(StatusCode::NOT_FOUND, "404 page not found\n")))
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream as Client,
        sync::atomic::{AtomicU64, Ordering::Relaxed},
        thread,
        time::Instant,
    };

    use super::*;

    #[derive(Default)]
    struct Echo(AtomicU64);

    impl Site for Echo {
        fn get(&self, path: &str, _: Format) -> Option<Answer> {
            self.0.fetch_add(1, Relaxed);
            (path != "/none").then(|| Answer::text(StatusCode::OK, path))
        }
    }

    /// A server that runs as long as the test.
    fn start() -> SocketAddr {
        let (sender, address) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
                sender.send(listener.local_addr().unwrap()).unwrap();
                let site: Arc<dyn Site> = Arc::new(Echo::default());
                accept(&listener, &site).await;
            });
        });
        address.recv().unwrap()
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut client = Client::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // A server that closes with unread input resets.
        let _reset = client.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn only_get_and_head_are_answered() {
        let address = start();
        let get = ask(address, "GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(get.starts_with("HTTP/1.1 200 OK\r\n") && get.ends_with("\r\n\r\n/a"), "{get}");
        assert!(get.contains("content-length: 2") && get.contains("connection: close"), "{get}");
        let head = ask(address, "HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(head.contains("content-length: 2") && head.ends_with("\r\n\r\n"), "{head}");
        let post = ask(address, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n");
        assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET, HEAD"), "{post}");
        assert!(ask(address, "GET /none HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert_eq!(
            ask(address, "GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /a HTTP/1.1\r\n\r\n")
                .matches("200 OK")
                .count(),
            1
        );
        assert!(ask(address, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    }

    #[test]
    fn a_head_that_does_not_fit_is_refused() {
        let address = start();
        let long = format!("GET /a HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(2 * MAX_HEAD));
        let answer = ask(address, &long);
        assert!(!answer.contains("200 OK"), "{answer}");
        let many = format!("GET /a HTTP/1.1\r\n{}\r\n", "A: a\r\n".repeat(MAX_HEADERS + 1));
        assert!(ask(address, &many).starts_with("HTTP/1.1 431 "));
    }

    #[test]
    fn clients_that_hold_connections_keep_nobody_waiting() {
        let address = start();
        let mut slow = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            let mut client = Client::connect(address).unwrap();
            client.write_all(b"GET /a HTTP/1.1\r\nX: ").unwrap();
            slow.push(client);
            let started = Instant::now();
            assert!(ask(address, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n").contains("200 OK"));
            assert!(started.elapsed() < HEAD_DEADLINE, "{:?}", started.elapsed());
        }
        // Those that were let go know it.
        let mut ended = 0;
        for client in &mut slow {
            client.set_nonblocking(true).unwrap();
            ended += usize::from(
                !matches!(client.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock),
            );
        }
        assert!(ended >= MAX_CONNECTIONS - 1, "{ended} were let go");
    }

    #[test]
    fn who_does_not_finish_a_question_is_let_go() {
        let address = start();
        let started = Instant::now();
        let answer = ask(address, "GET /a HTTP/1.1\r\nX: ");
        assert!(!answer.contains("200 OK"), "{answer}");
        assert!(started.elapsed() < DEADLINE + Duration::from_secs(5), "{:?}", started.elapsed());
    }
}

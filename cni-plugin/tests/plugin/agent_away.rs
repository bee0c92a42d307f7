use std::{os::unix::net::UnixListener, time::Instant};

use agent_api::{Attachment, SOCKET_NAME, pending};

use crate::node::Node;

#[test]
fn add_without_an_agent_asks_to_be_tried_again_and_names_the_socket() {
    let node = Node::new();
    let answer = node.call("ADD");
    assert_eq!(answer.code(), 11);
    let socket = node.dir.path().join(SOCKET_NAME);
    assert!(answer.message().contains(socket.to_str().expect("a path")), "{}", answer.message());
    assert!(answer.message().contains("millrace-agent"), "{}", answer.message());
    node.assert_clean();
}

#[test]
fn del_without_an_agent_succeeds_and_is_left_on_disk() {
    let node = Node::new();
    for _ in 0..2 {
        node.call("DEL").assert_success();
    }
    let left = pending::list(&node.state_dir()).expect("the folder");
    assert_eq!(left.len(), 1);
    let attachment = Attachment { container_id: "c0ffee".into(), ifname: "eth0".into() };
    assert_eq!(*left[0].attachment.as_ref().expect("an attachment"), attachment);
}

#[test]
fn an_agent_that_hangs_delays_del_and_status_by_about_a_second() {
    let node = Node::new();
    let _listener = UnixListener::bind(node.dir.path().join(SOCKET_NAME)).expect("binding the socket");
    for (verb, success) in [("DEL", true), ("STATUS", false)] {
        let start = Instant::now();
        let answer = node.call(verb);
        assert_eq!(answer.success, success, "{verb}: {}", answer.json);
        assert!(start.elapsed().as_millis() < 2000, "{verb}: {:?}", start.elapsed());
    }
    assert_eq!(pending::list(&node.state_dir()).expect("the folder").len(), 1);
}

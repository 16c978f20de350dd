use super::*;
use crate::protocol::PushRequest;

#[test]
fn a_kept_push_that_has_not_reached_all_says_so() {
    let body = br#"{"to":{"user":"42"},"keep":true,"data":1}"#;
    let PushRequest { push, wait, .. } = PushRequest::parse(body).expect("a push");
    let Target::User(user) = &push.to else {
        panic!("to a user: {:?}", push.to)
    };
    let (subject, operation) = (Subject::User(user.clone()), Operation::Push(&push));
    let answer = |connections, open| {
        let share = Delivery::new(operation, subject.clone(), wait, Instant::now())
            .kept(ReplicaProof::default());
        let share = Delivery {
            connections,
            open,
            ..share
        };
        let answer = sum_up(&[share]);
        (answer.status, answer.reason)
    };
    let reason = Some("a node in the row does not listen");
    assert_eq!(answer(1, reason), (Status::Routed, reason));
    assert_eq!(answer(0, reason), (Status::Stored, None));
    assert_eq!(answer(1, None), (Status::Routed, None));
}

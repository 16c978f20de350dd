use super::*;

const LANE: RowLane = RowLane(0);

/// Takes all, as if each row had a lane of its own.
async fn take(changes: &DirtyRows) -> RowChanges {
    let taken = changes.take(|_| LANE).await;
    changes.end_round(LANE);
    taken.into_iter().flat_map(|(_, rows)| rows).collect()
}

#[tokio::test]
async fn a_round_that_lasts_holds_up_only_its_own_rows() {
    let changes = DirtyRows::tracked();
    let users = ["a1", "a2", "b1"].map(|user| Subject::User(user.parse().unwrap()));
    let [a1, a2, b1] = &users;
    let by_letter = |row: &Subject| match row {
        Subject::User(user) => RowLane(usize::from(user.as_str().as_bytes()[0])),
        Subject::Topic(_) => LANE,
    };
    let rows = |taken: &[(RowLane, RowChanges)]| -> Vec<Subject> {
        let rows = taken.iter().flat_map(|(_, rows)| rows);
        rows.map(|(subject, _)| subject.clone()).collect()
    };
    changes.mark([a1.clone()]);
    let slow = changes.take(by_letter).await;
    changes.mark(users.clone());
    let taken = changes.take(by_letter).await;
    assert_eq!(rows(&taken), std::slice::from_ref(b1), "the others wait");
    let mut clean = users.to_vec();
    changes.retain_clean(&mut clean);
    assert_eq!(clean, [], "what waits or is being written is not clean");
    // Noted with what waits, and not beside it.
    let fd = Fd(7);
    changes.left(&"a1".parse().unwrap(), fd);
    assert_eq!(changes.unwritten(), 4);
    for (lane, rows) in taken {
        changes.written(rows);
        changes.end_round(lane);
    }
    // Even if it has another lane by now.
    let elsewhere = changes.take(|_| LANE);
    assert!(futures::FutureExt::now_or_never(elsewhere).is_none());
    let (lane, mut late) = slow.into_iter().next().unwrap();
    late[0].1.lost = true;
    changes.put_back(late);
    changes.end_round(lane);
    let taken = changes.take(by_letter).await;
    let mut both = rows(&taken);
    both.sort();
    assert_eq!(both, [a1.clone(), a2.clone()]);
    let mut all = taken.into_iter().flat_map(|(_, rows)| rows);
    let (_, change) = all.find(|(row, _)| row == a1).unwrap();
    assert_eq!((&change.gone[..], change.lost), (&[fd][..], true));
}

#[tokio::test]
async fn changes_of_one_user_come_out_together() {
    let changes = DirtyRows::tracked();
    let user: UserId = "a".parse().unwrap();
    let row = changes.joined(Subject::User(user.clone()));
    changes.left(&user, Fd(1));
    changes.left(&user, Fd(2));
    let taken = take(&changes).await;
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].1.gone[..], [Fd(1), Fd(2)]);
    assert!(!changes.is_settled(), "it is being written");
    changes.put_back(taken);
    let again = take(&changes).await;
    assert_eq!(again[0].1.gone.len(), 2);
    changes.written(again);
    assert!(changes.is_settled());
    assert_eq!(row.await, Ok(()));
}

#[tokio::test]
async fn a_loss_is_remembered_until_the_row_is_written() {
    let changes = DirtyRows::tracked();
    let [a, b] = ["a", "b"].map(|user| Subject::User(user.parse().unwrap()));
    changes.lost([a.clone()]);
    changes.forgotten([b.clone()]);
    let taken = take(&changes).await;
    changes.mark([a.clone(), b.clone()]);
    changes.put_back(taken);
    assert!(!changes.are_back());
    let mut again = take(&changes).await;
    assert!(!changes.are_back());
    again.sort_by_key(|(subject, _)| *subject != a);
    let marks = again
        .iter()
        .map(|(_, change)| (change.lost, change.forgotten));
    assert_eq!(marks.collect::<Vec<_>>(), [(true, false), (false, true)]);
    changes.forgotten([b.clone()]);
    changes.put_back(again.split_off(1));
    changes.written(again);
    assert!(!changes.are_back(), "forgotten twice, written not once");
    let again = take(&changes).await;
    changes.written(again);
    assert!(changes.are_back());
    changes.mark([a]);
    assert!(!take(&changes).await[0].1.lost);
}

#[tokio::test]
async fn a_row_that_was_written_since_it_was_looked_at_is_told_apart() {
    let changes = DirtyRows::tracked();
    let rows = ["a", "b"].map(|user| Subject::User(user.parse().unwrap()));
    changes.watch(&rows);
    changes.mark([rows[0].clone()]);
    changes.written(take(&changes).await);
    let mut looked_at = rows.to_vec();
    changes.retain_clean(&mut looked_at);
    assert_eq!(looked_at, rows, "both are clean");
    changes.retain_untouched(&mut looked_at);
    assert_eq!(looked_at, [rows[1].clone()]);
    // Only once: what is not watched any more may have been touched.
    changes.retain_untouched(&mut looked_at);
    assert_eq!(looked_at, []);
}

#[tokio::test]
async fn a_row_that_is_refused_itself_is_not_waited_for() {
    let changes = DirtyRows::tracked();
    let [a, b] = ["a", "b"].map(|user| Subject::User(user.parse().unwrap()));
    changes.forgotten([a.clone(), b.clone()]);
    let mut taken = take(&changes).await;
    taken.sort_by_key(|(subject, _)| *subject != a);
    let well = taken.split_off(1);
    changes.put_back_refused(taken);
    assert!(!changes.are_back(), "the other is being written");
    changes.written(well);
    assert!(changes.are_back());
    let taken = take(&changes).await;
    assert_eq!((&taken[0].0, taken[0].1.lost), (&a, true));
    // As if all were forgotten again meanwhile.
    changes.forgotten([a]);
    changes.put_back_refused(taken);
    assert!(!changes.are_back());
    changes.written(take(&changes).await);
    assert!(changes.are_back() && changes.is_settled());
}

#[tokio::test(start_paused = true)]
async fn what_was_removed_lately_can_be_removed_again() {
    let changes = DirtyRows::tracked();
    let [early, late]: [UserId; 2] = ["early", "late"].map(|user| user.parse().unwrap());
    changes.left(&early, Fd(1));
    changes.written(take(&changes).await);
    tokio::time::advance(REMEMBERED).await;
    changes.left(&late, Fd(2));
    changes.written(take(&changes).await);
    tokio::time::advance(Duration::from_secs(1)).await;
    changes.mark_removed();
    let taken = take(&changes).await;
    assert_eq!(taken.len(), 1);
    let late = Subject::User(late);
    assert_eq!((&taken[0].0, &taken[0].1.gone[..]), (&late, &[Fd(2)][..]));
    // It is remembered again: the next master may not know of it either.
    changes.written(taken);
    changes.mark_removed();
    assert_eq!(take(&changes).await.len(), 1);
    changes.mark_removed();
    assert_eq!(changes.state.as_ref().unwrap().lock().dirty.len(), 0);
}

#[tokio::test]
async fn a_topic_that_was_emptied_lately_is_looked_at_again() {
    let changes = DirtyRows::tracked();
    let topic: Topic = "news".parse().unwrap();
    changes.counted(&topic, true);
    changes.counted(&topic, false);
    let taken = take(&changes).await;
    assert!(taken[0].1.emptied);
    changes.put_back(taken);
    changes.written(take(&changes).await);
    changes.mark_removed();
    let taken = take(&changes).await;
    assert_eq!(taken[0].0, Subject::Topic(topic));
    assert!(taken[0].1.emptied);
}

#[tokio::test]
async fn only_so_many_removals_are_remembered() {
    let changes = DirtyRows::tracked();
    let user: UserId = "a".parse().unwrap();
    for fd in 0..MOST_REMEMBERED as u64 + 2 {
        changes.left(&user, Fd(fd));
    }
    changes.written(take(&changes).await);
    changes.mark_removed();
    let taken = take(&changes).await;
    assert_eq!(taken[0].1.gone.len(), MOST_REMEMBERED);
    assert_eq!(taken[0].1.gone[0], Fd(2));
}

#[tokio::test]
async fn without_a_registry_nobody_waits() {
    let changes = DirtyRows::ignored();
    let user = Subject::User("a".parse().unwrap());
    assert!(changes.joined(user).await.is_err());
    assert!(changes.is_settled());
}

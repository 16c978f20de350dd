use super::*;

/// The table of docs/topics.md.
const RULES: &str = r#"[
    {"match":"chat.**", "keep":{"messages":50,"seconds":604800,"every":true},
     "history":"members", "presence":"members", "send":"members"},
    {"match":"ai.{user}.**", "keep":{"messages":5000,"bytes":4194304,"seconds":3600},
     "subscribe":"anyone"},
    {"match":"cursor.**", "send":"members", "rate":30, "max_bytes":200, "policy":"latest"},
    {"match":"price.**", "keep":{"messages":1}, "entry":"last", "subscribe":"anyone"}
]"#;

fn faults(text: &str) -> Vec<String> {
    TopicRules::parse(text).expect_err(text)
}

#[test]
fn the_first_rule_that_fits_counts() {
    let rules = TopicRules::parse(RULES).unwrap();
    let find = |topic: &str| rules.find(&topic.parse().unwrap());
    let chat = find("chat.1").unwrap();
    assert!(chat.keep.every);
    assert_eq!(chat.keep.messages, Some(50));
    assert_eq!(chat.send, Some(SendRule::default()));
    let cursor = find("cursor.a.b").unwrap();
    let sends = SendRule {
        rate: Some(30),
        max_bytes: Some(200),
    };
    assert_eq!(
        (cursor.send, cursor.policy),
        (Some(sends), PolicyRule::Latest)
    );
    assert_eq!(find("price.EUR").unwrap().entry, EntryRule::Last);
    assert_eq!(find("news"), None);
    let narrow = r#"[{"match":"a.1","send":"members"},{"match":"a.*"}]"#;
    let narrow = TopicRules::parse(narrow).unwrap();
    assert!(narrow.find(&"a.1".parse().unwrap()).unwrap().send.is_some());
    assert!(narrow.find(&"a.2".parse().unwrap()).unwrap().send.is_none());
}

#[test]
fn a_field_that_is_not_written_changes_nothing() {
    let rules = TopicRules::parse(r#"[{"match":"a"}]"#).unwrap();
    let rule = rules.find(&"a".parse().unwrap()).unwrap();
    let plain = TopicRule {
        pattern: RulePattern::parse("a").unwrap(),
        subscribe: SubscribeRule::Grant,
        keep: KeepRule::default(),
        entry: EntryRule::None,
        history: HistoryRule::Members,
        presence: PresenceRule::Members,
        send: None,
        policy: PolicyRule::Close,
    };
    assert_eq!(**rule, plain);
}

#[test]
fn every_fault_is_named_with_its_rule() {
    let all = faults(
        r#"[{"match":"a","sent":"members"}, {"match":"b.**"}, {"match":"b.1"},
            {"match":"c","rate":30,"keep":{"messages":0}}, {"match":"d e"}, {}]"#,
    );
    let expected = [
        "rule 1 (a): unknown field `sent`",
        "rule 4 (c): keep.messages is 0: must be from 1 to 1000000",
        "rule 4 (c): rate needs \"send\": \"members\"",
        "rule 5 (d e): \"d e\" is no pattern of topics",
        "rule 6: missing field `match`",
        "rule 3 (b.1): can never match, rule 2 (b.**) takes all its topics",
    ];
    assert_eq!(all.len(), expected.len(), "{all:#?}");
    for (fault, expected) in all.iter().zip(expected) {
        assert!(fault.starts_with(expected), "{fault:?} {expected:?}");
    }
}

#[test]
fn a_rule_that_contradicts_itself_is_refused() {
    for (rule, fault) in [
        (r#""subscribe":"all""#, "unknown variant `all`"),
        (r#""keep":{"mesages":1}"#, "unknown field `mesages`"),
        (r#""keep":{"seconds":0}"#, "keep.seconds is 0"),
        (r#""keep":{"bytes":1}"#, "keep.bytes is 1"),
        (r#""send":"members","rate":0"#, "rate is 0"),
        (r#""max_bytes":10"#, "max_bytes needs"),
        (r#""entry":"last","history":"nobody""#, "entry gives"),
        (
            r#""keep":{"every":true},"policy":"drop""#,
            "policy has no use",
        ),
        (r#""match":"y""#, "duplicate field `match`"),
    ] {
        let text = format!(r#"[{{"match":"x",{rule}}}]"#);
        let all = faults(&text);
        assert!(all.iter().any(|one| one.contains(fault)), "{rule}: {all:?}");
    }
    for bad in ["{}", "[1]", "[", r#"[{"match":"a"}] x"#] {
        assert_eq!(faults(bad).len(), 1, "{bad}");
    }
    let many = format!("[{}]", vec![r#"{"match":"a"}"#; MAX_RULES + 1].join(","));
    assert!(faults(&many)[0].contains("257 rules"));
}

#[test]
fn equal_rules_have_one_digest_however_they_are_written() {
    let rules = TopicRules::parse(RULES).unwrap();
    let spaced = TopicRules::parse(&RULES.replace(',', " ,\n")).unwrap();
    assert_eq!(rules.digest(), spaced.digest());
    assert_eq!(rules.digest().len(), DIGEST_DIGITS);
    let other = TopicRules::parse(&RULES.replace("30", "31")).unwrap();
    assert_ne!(rules.digest(), other.digest());
    assert_eq!(TopicRules::parse(" ").unwrap().digest(), "");
    assert_eq!(TopicRules::parse("[]").unwrap().digest(), "");
}

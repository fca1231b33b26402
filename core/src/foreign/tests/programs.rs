use bson::doc;

use super::*;

/// Returns a record of each program, with the program.
fn records() -> Vec<(Program, Vec<u8>)> {
    let entry = doc! { "ts": timestamp(7, 1), "v": 2, "op": "i", "ns": "s.a", "o": { "_id": 1 } };
    let entry = bytes(&entry);
    let event = doc! { "_id": { "_data": "82" }, "operationType": "invalidate" };
    let mut frame = [[0; 4], [0; 4], [0; 4], [0; 4], 1_u32.to_be_bytes()].concat();
    frame.extend_from_slice(&u32::try_from(entry.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&entry);
    let go = br#"{"ts":{"T":7,"I":1},"op":"n","ns":"","o":[]}"#;
    let connect = br#"{"_id":{"_data":"82"},"operationType":"invalidate"}"#;
    let debezium = br#"{"schema":{},"payload":{"op":"c","source":{},"after":null}}"#;
    let ours = br#"{"_id":{"source":"rs0","ts":"7:1","ord":0},"operationType":"insert"}"#;
    vec![
        (Program::Other(Writer::MongoshakeBson), entry),
        (Program::Other(Writer::MongoshakeRaw), frame),
        (Program::Other(Writer::MongoshakeJson), go.to_vec()),
        (Program::Other(Writer::MongoKafkaJson), connect.to_vec()),
        (Program::Other(Writer::MongoKafkaBson), bytes(&event)),
        (Program::Other(Writer::Debezium), debezium.to_vec()),
        (Program::Relay, ours.to_vec()),
        (Program::Relay, b"OPLR\x01".to_vec()),
    ]
}

#[test]
fn a_record_of_another_program_is_recognized() {
    for (program, value) in records() {
        assert_eq!(recognize(&value), Some(program));
    }
    for unknown in [&b""[..], b"{}", b"[1]", b"no document", b"\x05\0\0\0\0"] {
        assert_eq!(recognize(unknown), None, "{unknown:?}");
    }
}

#[test]
fn the_error_names_the_input_that_fits() {
    for writer in Writer::ALL {
        for (program, value) in records() {
            if program == Program::Other(writer) {
                continue;
            }
            let error = entries_of(rules(writer), None, &value).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains(&program.to_string()),
                "{writer} {program}: {text}"
            );
        }
    }
}

#[test]
fn names_on_the_command_line_are_read_back() {
    for writer in Writer::ALL {
        assert_eq!(writer.name().parse(), Ok(writer));
    }
    assert!("kafka".parse::<Writer>().is_err());
}

#[test]
fn no_bytes_make_a_decoder_panic() {
    let mut records = records();
    records.push((Program::Relay, Vec::new()));
    for (_, value) in records {
        for at in 0..value.len() {
            let mut damaged = value.clone();
            for byte in [0, 1, b'"', 0x7f, 0xff] {
                damaged[at] = byte;
                for writer in Writer::ALL {
                    let mut arena = damaged.clone();
                    let record = Record {
                        value: 0..arena.len(),
                        key: Some(&value),
                        offset: 1,
                    };
                    // Some damage leaves a valid record.
                    drop(decode(rules(writer), &record, &mut arena, &mut Vec::new()));
                }
            }
        }
    }
}

use super::super::packet::flag;
use super::super::testing::{Spec, Sums, is_good, kinds, segmented, written};
use super::*;

const NO_CSUM: Offloads = Offloads { csum: false, ..Offloads::ALL };

#[test]
fn segments_are_the_packets_that_the_guest_would_have_sent() {
    for whole in kinds() {
        let frame = whole.frame();
        let mut expected = Spec { payload: vec![], sums: Sums::Whole, ..whole.clone() };
        let segments: Vec<_> = Segments::new(&segmented(&whole, 100), &frame, NO_CSUM).unwrap().collect();
        assert_eq!(segments.len(), 3);
        for (segment, payload) in segments.iter().zip(whole.payload.chunks(100)) {
            expected.payload = payload.to_vec();
            assert_eq!(segment.header, NetHeader::default());
            let bytes = written(segment);
            assert_eq!(bytes, expected.frame(), "{whole:?}");
            assert!(is_good(&bytes));
            expected = expected.next();
        }
    }
}

#[test]
fn checksums_are_left_to_who_takes_them() {
    for whole in kinds() {
        let frame = whole.frame();
        for segment in Segments::new(&segmented(&whole, 100), &frame, Offloads::ALL).unwrap() {
            let mut bytes = written(&segment);
            let mut header = segment.header;
            assert_eq!(header.checksum(), segmented(&whole, 100).checksum());
            assert!(!header.is_segmented());
            assert_eq!(super::super::finish(&mut header, &mut bytes, NO_CSUM), Ok(()));
            assert!(is_good(&bytes), "{whole:?}");
        }
    }
}

#[test]
fn flags_that_belong_to_an_end_stay_there() {
    let flags = flag::ACK | flag::PSH | flag::FIN | flag::CWR;
    let whole = Spec { flags, payload: vec![1; 30], sums: Sums::Partial, ..Spec::default() };
    let mut header = segmented(&whole, 10);
    // With ECN.
    header.0[1] |= 0x80;
    let frame = whole.frame();
    let segments = Segments::new(&header, &frame, NO_CSUM).unwrap();
    let flags: Vec<_> = segments.map(|segment| segment.head()[34 + 13]).collect();
    assert_eq!(flags, [flag::ACK | flag::CWR, flag::ACK, flag::ACK | flag::PSH | flag::FIN]);
}

#[test]
fn options_go_with_every_segment() {
    let whole = Spec {
        options: vec![1; 40],
        ip_options: vec![1; 40],
        tags: 2,
        payload: vec![1; 30],
        sums: Sums::Partial,
        ..Spec::default()
    };
    let frame = whole.frame();
    for segment in Segments::new(&segmented(&whole, 10), &frame, NO_CSUM).unwrap() {
        let bytes = written(&segment);
        assert!(is_good(&bytes));
        assert_eq!(bytes.len(), MAX_HEADERS + 10);
    }
}

#[test]
fn a_frame_of_one_segment_is_one_segment() {
    for payload in [0, 1, 99, 100] {
        for spec in kinds() {
            let whole = Spec { payload: vec![1; payload], ..spec };
            let frame = whole.frame();
            let segments: Vec<_> = Segments::new(&segmented(&whole, 100), &frame, NO_CSUM).unwrap().collect();
            assert_eq!(segments.len(), 1, "{whole:?}");
            assert_eq!(written(&segments[0]), Spec { sums: Sums::Whole, ..whole }.frame());
        }
    }
}

#[test]
fn lengths_in_the_frame_are_not_trusted() {
    let whole = Spec { payload: vec![1; 30], sums: Sums::Partial, ..Spec::default() };
    let mut frame = whole.frame();
    // As of a packet that is too long for its length field.
    frame[16..18].fill(0);
    for segment in Segments::new(&segmented(&whole, 10), &frame, NO_CSUM).unwrap() {
        assert!(is_good(&written(&segment)));
    }
}

#[test]
fn a_header_of_another_packet_is_refused() {
    let whole = Spec { sums: Sums::Partial, ..Spec::default() };
    let frame = whole.frame();
    let refused = |header: NetHeader| Segments::new(&header, &frame, NO_CSUM).err();
    for kind in [Segmentation::TcpV6, Segmentation::Udp] {
        assert_eq!(refused(NetHeader::segmented(kind, 100, 54, 34, 16)), Some(SegmentError::Mismatch));
    }
    let tcp = |size, hdr, start, offset| NetHeader::segmented(Segmentation::TcpV4, size, hdr, start, offset);
    for (size, start, offset) in
        [(0, 34, 16), (10, 33, 17), (10, 34, 6), (10, 0xffff, 16), (10, 34, 0xffff), (10, 0, 0)]
    {
        assert_eq!(refused(tcp(size, 54, start, offset)), Some(SegmentError::Mismatch), "{size} {start} {offset}");
    }
    assert_eq!(refused(NetHeader::unfinished(34, 16)), Some(SegmentError::Mismatch));
    let mut without = tcp(10, 54, 34, 16);
    without.0[0] = 0;
    assert_eq!(refused(without), Some(SegmentError::Mismatch));
    // The header length is a hint.
    for hdr_len in [0, 0xffff] {
        assert_eq!(refused(tcp(10, hdr_len, 34, 16)), None);
    }
    assert_eq!(refused(tcp(0xffff, 54, 34, 16)), None);
    let short = Segments::new(&tcp(10, 54, 34, 16), &frame[..50], NO_CSUM);
    assert_eq!(short.err(), Some(SegmentError::Headers(ParseError::Short)));
}

#[test]
fn segments_longer_than_a_packet_are_refused() {
    for (v6, most) in [(false, 65_535 - 40), (true, 65_535 - 20)] {
        let whole = Spec { v6, sums: Sums::Partial, ..Spec::default() };
        let mut frame = whole.frame();
        frame.resize(whole.transport() + 20 + 65_530, 1);
        for (size, fits) in [(most, true), (most + 1, false), (0xffff, false)] {
            let segments = Segments::new(&segmented(&whole, size), &frame, NO_CSUM);
            assert_eq!(segments.is_ok(), fits, "{size}");
            for segment in segments.into_iter().flatten() {
                assert!(is_good(&written(&segment)));
            }
        }
    }
}

#[test]
fn nothing_is_written_where_there_is_no_room() {
    let whole = Spec { sums: Sums::Partial, ..Spec::default() };
    let frame = whole.frame();
    let segment = Segments::new(&segmented(&whole, 10), &frame, NO_CSUM).unwrap().next().unwrap();
    let mut room = vec![0; segment.frame_len() - 1];
    assert_eq!(segment.write_to(&mut room), None);
    assert!(room.iter().all(|byte| *byte == 0));
}

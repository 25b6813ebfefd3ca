use proptest::collection::vec;
use proptest::prelude::*;

use super::super::testing::Spec;
use super::*;

#[test]
fn headers_are_found_behind_tags_and_options() {
    for tags in 0..=2 {
        for (v6, ip_options) in [(true, 0), (false, 0), (false, 40)] {
            for (udp, options) in [(true, 0), (false, 0), (false, 40)] {
                let spec = Spec {
                    tags,
                    v6,
                    udp,
                    ip_options: vec![1; ip_options],
                    options: vec![1; options],
                    ..Spec::default()
                };
                let frame = spec.frame();
                let packet = Packet::parse(&frame).unwrap();
                let ip = 14 + 4 * usize::from(tags);
                assert_eq!((packet.ip, packet.transport), (ip, spec.transport()));
                assert_eq!(packet.payload, frame.len() - spec.payload.len());
                assert_eq!(packet.version, if v6 { Version::V6 } else { Version::V4 });
                assert_eq!(packet.protocol, if udp { Transport::Udp } else { Transport::Tcp });
                assert_eq!(packet.payload_len(&frame, frame.len()), Some(spec.payload.len()));
                assert!(packet.payload <= MAX_HEADERS);
                let whole = packet.pseudo_header(&frame, frame.len() - packet.transport);
                assert!(whole.bytes(&frame[packet.transport..]).is_whole());
                for len in 0..packet.payload {
                    assert_eq!(Packet::parse(&frame[..len]), Err(ParseError::Short), "{len} bytes of {spec:?}");
                }
            }
        }
    }
}

#[test]
fn what_is_no_whole_packet_is_refused() {
    use ParseError::{Fragment, Header, NotIp, Protocol};
    let v4 = Spec::default().frame();
    let v6 = Spec { v6: true, ..Spec::default() }.frame();
    let three_tags = Spec { tags: 2, ..Spec::default() }.frame();
    for (frame, at, byte, why) in [
        (&v4, 12, 0x88, NotIp),
        (&v4, 13, 0x06, NotIp),
        (&v4, 14, 0x65, Header),
        (&v4, 14, 0x44, Header),
        (&v4, 20, 0x20, Fragment),
        (&v4, 21, 0x01, Fragment),
        (&v4, 23, 1, Protocol),
        (&v4, 34 + 12, 0x40, Header),
        (&v6, 14, 0x40, Header),
        (&v6, 20, 44, Protocol),
        (&three_tags, 20, 0x81, NotIp),
    ] {
        let mut frame = frame.clone();
        frame[at] = byte;
        assert_eq!(Packet::parse(&frame), Err(why), "{byte:#x} at {at}");
    }
}

#[test]
fn lengths_must_agree() {
    for v6 in [false, true] {
        for udp in [false, true] {
            let spec = Spec { v6, udp, ..Spec::default() };
            let frame = spec.frame();
            let packet = Packet::parse(&frame).unwrap();
            for len in [0, packet.payload, frame.len() - 1, frame.len() + 1] {
                assert_eq!(packet.payload_len(&frame, len), None, "{len} of {spec:?}");
            }
            let places = [Some(if v6 { 14 + 4 } else { 14 + 2 }), udp.then_some(packet.transport + 4)];
            for at in places.into_iter().flatten() {
                let mut frame = frame.clone();
                frame[at + 1] ^= 1;
                assert_eq!(packet.payload_len(&frame, frame.len()), None, "{at} of {spec:?}");
            }
        }
    }
}

/// Bytes that look like a packet at first.
fn nearly_a_packet() -> impl Strategy<Value = Vec<u8>> {
    let start =
        prop::sample::select(vec![&[8, 0, 0x45][..], &[8, 0], &[0x86, 0xdd, 0x60], &[0x81, 0], &[0x88, 0xa8], &[]]);
    (vec(any::<u8>(), 0..150), start, any::<bool>()).prop_map(|(mut bytes, start, udp)| {
        for (at, byte) in start.iter().enumerate() {
            if let Some(place) = bytes.get_mut(12 + at) {
                *place = *byte;
            }
        }
        for at in [20, 23] {
            if let Some(place) = bytes.get_mut(at) {
                *place = if udp { UDP } else { TCP };
            }
        }
        bytes
    })
}

proptest! {
    #[test]
    fn any_bytes_may_be_parsed(bytes in nearly_a_packet(), frame_len in 0usize..70_000) {
        if let Ok(packet) = Packet::parse(&bytes) {
            prop_assert!(packet.ip < packet.transport && packet.transport < packet.payload);
            prop_assert!(packet.payload <= bytes.len().min(MAX_HEADERS));
            if let Some(len) = packet.payload_len(&bytes, frame_len) {
                prop_assert_eq!(packet.payload + len, frame_len);
            }
            _ = packet.pseudo_header(&bytes, frame_len);
        }
    }
}

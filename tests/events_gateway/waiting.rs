//! What messages of all devices hold while they wait.

use super::*;

#[test]
fn what_waits_is_bounded_over_all_connections() {
    let limit = 2_000;
    for leave in [false, true] {
        let mut world = world(EventsGatewaySettings {
            waiting_bytes_max: limit,
            orphans_max: 1_000,
            ..settings()
        });
        let connect = |n| world.connect(&format!("/ws?device_id=d{n}"), None);
        let keys: Vec<_> = (0..20).map(connect).collect();
        let event = format!("lobby.{}", "x".repeat(100));
        for (id, key) in (0..10).flat_map(|id| keys.iter().map(move |key| (id, *key))) {
            ask(&mut world, key, &event, id);
        }
        let one_of_each = 20 * settings().message_bytes_max;
        let waits = |world: &Events| world.hub.gateway().waiting_bytes();
        assert!(waits(&world) > limit && waits(&world) <= limit + one_of_each);
        let other = world.connect("/ws?device_id=other", None);
        world.send(other, &frame(0x82, b"not text"));
        assert_eq!(world.texts(other).len(), 1, "nothing of its own waits");
        if leave {
            keys.iter().for_each(|key| world.end(*key, true));
            // Over the limit a device leaves no message but the one of its call.
            assert_eq!(world.outputs.len(), 20, "calls under way");
            assert!(waits(&world) <= 20 * 150, "{} bytes wait", waits(&world));
        }
        let mut forwarded = 0;
        while let Some(call) = world.outputs.pop() {
            forwarded += 1;
            answer(&mut world, &call, "1");
        }
        assert!(forwarded == 200 || leave, "{forwarded} forwarded");
        assert_eq!(waits(&world), 0);
        assert!(world.hub.gateway().is_idle());
    }
}

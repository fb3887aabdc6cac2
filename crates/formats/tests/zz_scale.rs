use maskmill_formats::detections::*;
use std::fmt::Write as _;
use std::time::Instant;
fn rss(line: &str) -> usize {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    s.lines()
        .find(|l| l.starts_with(line))
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        / 1024
}
#[test]
fn million() {
    let mut t = String::from("[");
    for n in 0..1_000_000u64 {
        if n > 0 {
            t.push_str(", ");
        }
        write!(t, "{{\"image_id\": {}, \"category_id\": {}, \"bbox\": [{}.25, {}.5, 17.123456, 33.75], \"score\": 0.98765{}, \"segmentation\": {{\"size\": [480, 640], \"counts\": \"WUi12l>4M3N1O1O1O2N1O00000000000001O0O2N1O1N2O1N3L6I`b8\"}}}}", n.wrapping_mul(7919)%50_000, n%80, n%600, n%400, n%1000).unwrap();
    }
    t.push(']');
    let mut d = String::from("{\"images\": [");
    for n in 0..50_000 {
        if n > 0 {
            d.push(',');
        }
        write!(d,"{{\"id\": {n}, \"file_name\": \"train2017/{n:012}.jpg\", \"width\": 640, \"height\": 480}}").unwrap();
    }
    d.push_str("], \"categories\": [");
    for n in 0..80 {
        if n > 0 {
            d.push(',');
        }
        write!(d, "{{\"id\": {n}, \"name\": \"category {n}\"}}").unwrap();
    }
    d.push_str("]}");
    for second in [
        None,
        Some(CocoFile {
            name: "d",
            bytes: d.as_bytes(),
        }),
    ] {
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = rss("VmRSS:");
        let s = Instant::now();
        let c = CocoDetections::read(
            CocoFile {
                name: "r",
                bytes: t.as_bytes(),
            },
            second,
        )
        .unwrap();
        let el = s.elapsed();
        println!(
            "{} MB, {} detections {} images, {:?}, peak +{} MiB, held +{} MiB",
            t.len() >> 20,
            c.detections(),
            c.images_with_detections(),
            el,
            rss("VmHWM:") - before,
            rss("VmRSS:").saturating_sub(before)
        );
        let s = Instant::now();
        let mut k = 0;
        for n in 0..50_000 {
            k += c
                .of(&format!("data/x/{n:012}.jpg"))
                .unwrap()
                .map_or(0, <[_]>::len);
        }
        println!("lookups {k} {:?}", s.elapsed());
    }
}

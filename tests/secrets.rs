//! Secrets are in nothing that a job prints, serves or writes, however it ends and however much it logs:
//! keys, tokens, signatures, passwords. Even the key's id is in nothing.

mod support;

use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use maskmill_formats::plan_items::read_plan_rows;
use maskmill_formats::rows::{read_images, read_masks};
use maskmill_loopback_s3::{
    ACCESS_KEY, Act, FaultKind, Faults, LoopbackS3, Phase, SECRET_KEY, SESSION_TOKEN, Seen,
};
use support::{DATA, Job, MASKMILL, OUT, Ran, files_below, metrics, picture, png};

const PASSWORD: &str = "hunter2-Kx9QpW";
const SIGNATURE: &str = "5f0c1d2e8ab94c67";
const TOKEN: &str = "FwoGZXquerytoken7Rk";
/// What is given in the place of the key, its id and the session token.
const WRONG: &str = "AKIAWRONGzq81";

const SECRETS: [&str; 7] = [
    ACCESS_KEY,
    SECRET_KEY,
    SESSION_TOKEN,
    PASSWORD,
    SIGNATURE,
    TOKEN,
    WRONG,
];

const FORMATS: [&str; 2] = ["text", "json"];

#[track_caller]
fn expect_no_secret(what: &str, text: &str) {
    let near = |at: usize| {
        let from = text.floor_char_boundary(at.saturating_sub(300));
        let to = text.ceil_char_boundary((at + 100).min(text.len()));
        &text[from..to]
    };
    for secret in SECRETS {
        if let Some(at) = text.find(secret) {
            panic!("{what} shows {secret}: ...{}...", near(at));
        }
    }
    // The value of the header, and signatures that this test does not know the value of.
    if let Some(at) = text.find("AWS4-HMAC-SHA256") {
        panic!("{what} shows how a request was signed: ...{}...", near(at));
    }
    for (at, name) in text.match_indices("Signature=") {
        let value = &text[at + name.len()..];
        let is_cut = value.starts_with("...") || value.starts_with("(hidden)");
        assert!(is_cut, "{what} shows a signature: ...{}...", near(at));
    }
}

#[track_caller]
fn expect_clean(what: &str, ran: &Ran) {
    expect_no_secret(&format!("stdout of {what}"), &ran.stdout);
    expect_no_secret(&format!("stderr of {what}"), &ran.stderr);
}

/// Every object of the output but the plan's item files. These hold the addresses that were planned, to the
/// letter: whoever resumes a job reads the images by them, when the manifest may be gone. So an output of
/// presigned addresses is as secret as its manifest, for as long as they are valid.
#[track_caller]
fn expect_clean_output(server: &LoopbackS3) {
    for key in server.keys(OUT, "") {
        let bytes = server.get(OUT, &key).unwrap();
        let is_parquet = key.ends_with(".parquet");
        if key.contains("/_plan/") && is_parquet {
            continue;
        }
        expect_no_secret(&key, &key);
        expect_no_secret(&key, &String::from_utf8_lossy(&bytes));
        // Tables are compressed.
        if key.contains("/images/") {
            expect_no_secret(&key, &format!("{:?}", read_images(bytes).unwrap()));
        } else if key.contains("/masks/") {
            expect_no_secret(&key, &format!("{:?}", read_masks(bytes).unwrap()));
        }
    }
}

/// A job that logs all there is to log, with a line per image for each of its crates and libraries.
fn traced(kind: &str, server: &Arc<LoopbackS3>, format: &str) -> Job {
    let mut job = Job::in_store(kind, server);
    job.set("log.level=trace,hyper_util::client=trace")
        .set(&format!("log.format={format}"))
        .set("prompts.points_per_side=1")
        .set("source.images_per_shard=2");
    job
}

fn of_images(server: &Arc<LoopbackS3>, format: &str) -> Job {
    let job = traced("images", server, format);
    for seed in 0..4 {
        let image = png(&picture(48, 40, seed), None);
        job.put(&format!("{seed}.png"), &image);
    }
    job
}

fn reads_source(seen: &Seen) -> bool {
    seen.bucket == DATA && seen.method == "GET" && !seen.is_list()
}

/// Commands on a job that has run, or has not.
#[track_caller]
fn expect_clean_commands(job: &Job) {
    let output = job.location();
    for arguments in [
        &["status", &output][..],
        &["status", &output, "--json"],
        &["verify", &output],
        &["finalize", &output],
        &["gc", &output],
        &["export", &output, "--format", "sa1b", "--out", "sa1b"],
        &["view", &output, "--image", "no such image"],
    ] {
        expect_clean(&format!("{arguments:?}"), &job.maskmill(arguments));
    }
    for file in files_below(&job.path("sa1b")) {
        expect_no_secret("a path", &file.display().to_string());
        expect_no_secret("a document", &fs::read_to_string(file).unwrap());
    }
    for arguments in [&["--measure", "1"][..], &["--extend", "--measure", "0"]] {
        expect_clean(&format!("plan {arguments:?}"), &job.job("plan", arguments));
    }
    expect_clean_output(job.server());
}

fn free_address() -> String {
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    port.local_addr().unwrap().to_string()
}

#[test]
fn a_job_that_succeeds_shows_none() {
    for format in FORMATS {
        let server = Arc::new(LoopbackS3::start());
        let mut job = of_images(&server, format);
        job.set("store.max_retries=30");
        let kinds = vec![
            FaultKind::Status(500),
            FaultKind::Status(503),
            FaultKind::Dropped,
            FaultKind::TruncatedBody,
            FaultKind::LostResponse,
        ];
        server.fault(Faults {
            seed: 7,
            rate: 0.2,
            kinds,
        });
        let address = free_address();
        let served = Arc::new(Mutex::new(String::new()));
        let (at, keep) = (address.clone(), served.clone());
        server.hook(move |seen, phase| {
            if phase == Phase::Before && seen.key.starts_with("job/_commits/") && seen.is_create() {
                let text = metrics(&at).unwrap_or_default();
                keep.lock().unwrap().push_str(&text);
            }
            Act::Go
        });
        let ran = job.job("run", &["--metrics-addr", &address]);
        ran.expect_code(0);
        server.clear_hook();
        server.fault(Faults::none());
        assert!(ran.stderr.contains("DEBUG"), "libraries are logged too");
        expect_clean(format, &ran);
        let served = served.lock().unwrap();
        assert!(served.contains("maskmill_store_retries_total"), "{served}");
        expect_no_secret("the metrics", &served);
        assert_eq!(job.rows().images.len(), 4);
        expect_clean_commands(&job);
    }
}

/// A way for a job to fail: what is done to its environment and its store before it runs.
type Trouble = (
    &'static str,
    i32,
    fn(&mut Job, &Arc<LoopbackS3>) -> Vec<(&'static str, String)>,
);

const TROUBLES: [Trouble; 11] = [
    ("a wrong key", 2, |_, _| {
        vec![("AWS_SECRET_ACCESS_KEY", WRONG.to_owned())]
    }),
    ("a wrong id", 2, |_, _| {
        vec![("AWS_ACCESS_KEY_ID", WRONG.to_owned())]
    }),
    ("a wrong token", 2, |_, _| {
        vec![("AWS_SESSION_TOKEN", WRONG.to_owned())]
    }),
    ("an endpoint with a password", 1, |job, server| {
        job.set("store.max_retries=1").set("run.shard_attempts=1");
        server.hook(|seen, _| match reads_source(seen) {
            true => Act::Status(500),
            false => Act::Go,
        });
        let host = server.endpoint().replace("http://", "");
        vec![("AWS_ENDPOINT_URL", format!("http://user:{PASSWORD}@{host}"))]
    }),
    ("nobody there", 2, |job, _| {
        job.set("store.max_retries=1");
        vec![("AWS_ENDPOINT_URL", format!("http://{}", free_address()))]
    }),
    ("expired from the start", 2, |_, server| {
        server.expire_credentials(true);
        vec![]
    }),
    ("expired midway", 1, |job, server| {
        job.set("run.fetch_concurrency=1");
        let (weak, reads) = (Arc::downgrade(server), AtomicUsize::new(0));
        server.hook(move |seen, phase| {
            let is_read = phase == Phase::After && reads_source(seen);
            if is_read && reads.fetch_add(1, Ordering::SeqCst) == 1 {
                weak.upgrade().unwrap().expire_credentials(true);
            }
            Act::Go
        });
        vec![]
    }),
    ("403 for every image", 0, |_, server| {
        server.hook(|seen, _| match reads_source(seen) {
            true => Act::Status(403),
            false => Act::Go,
        });
        vec![]
    }),
    ("403 for everything", 2, |_, server| {
        server.hook(|_, _| Act::Status(403));
        vec![]
    }),
    ("500 for every image", 1, |job, server| {
        job.set("store.max_retries=1").set("run.shard_attempts=2");
        server.hook(|seen, _| match reads_source(seen) {
            true => Act::Status(500),
            false => Act::Go,
        });
        vec![]
    }),
    ("500 for every marker", 1, |job, server| {
        job.set("store.max_retries=1").set("run.shard_attempts=2");
        server.hook(
            |seen, _| match seen.key.starts_with("job/_commits/") && seen.is_create() {
                true => Act::Status(500),
                false => Act::Go,
            },
        );
        vec![]
    }),
];

#[test]
fn a_job_that_fails_shows_none() {
    for (what, code, trouble) in TROUBLES {
        for format in FORMATS {
            let server = Arc::new(LoopbackS3::start());
            let mut job = of_images(&server, format);
            let environment = trouble(&mut job, &server);
            let mut command = job.command(MASKMILL);
            command.args(job.arguments()).envs(environment);
            let ran = Ran::of(&mut command);
            assert_eq!(ran.code, Some(code), "{what}: {ran:#?}");
            expect_clean(what, &ran);
            expect_clean_commands(&job);
            server.clear_hook();
            server.expire_credentials(false);
            expect_clean_output(&server);
            expect_clean_commands(&job);
        }
    }
}

#[test]
fn a_manifest_of_signed_addresses_shows_none() {
    for format in FORMATS {
        let server = Arc::new(LoopbackS3::start());
        let mut job = traced("manifest", &server, format);
        server.make_public(DATA);
        for seed in 0..3 {
            let image = png(&picture(48, 40, seed), None);
            job.put(&format!("{seed}.png"), &image);
        }
        server.hook(|seen, _| match seen.key.as_str() {
            "source/dropped.png" => Act::Drop,
            "source/broken.png" => Act::Status(500),
            "source/denied.png" => Act::Status(403),
            _ => Act::Go,
        });
        let host = server.endpoint().replace("http://", "");
        let nobody = free_address();
        let signed = format!("X-Amz-Credential={TOKEN}&X-Amz-Signature={SIGNATURE}&token={TOKEN}");
        let list = [
            "uri".to_owned(),
            format!("http://{host}/data/source/0.png?token={TOKEN}"),
            format!("HTTP://{host}/data/source/1.png?token={TOKEN}&sig={SIGNATURE}"),
            format!("http://{host}/data/source/2.png?{signed}"),
            format!("http://{host}/data/source/gone.png?token={TOKEN}#{SIGNATURE}"),
            format!("http://{host}/data/source/dropped.png?token={TOKEN}"),
            format!("http://{host}/data/source/broken.png?{signed}"),
            format!("http://{host}/data/source/denied.png?token={TOKEN}"),
            format!("http://user:{PASSWORD}@{host}/data/source/0.png"),
            format!("http://user:pass/{PASSWORD}@{host}/data/source/0.png"),
            format!("http://{PASSWORD}@{host}/data/source/0.png"),
            format!("https://{host}/data/source/0.png?{signed}"),
            format!("http://{nobody}/0.png?token={TOKEN}"),
            format!("s3://user:{PASSWORD}@data/source/0.png"),
            format!("ftp://user:{PASSWORD}@host/0.png?{signed}"),
            format!("http://ho st/0.png?{signed}"),
        ];
        job.put("list.csv", list.join("\n").as_bytes());
        job.set("source.path=s3://data/source/list.csv")
            .set("store.max_retries=1")
            .set("run.shard_attempts=1");
        let ran = job.run();
        assert!(matches!(ran.code, Some(0 | 1)), "{ran:#?}");
        expect_clean(format, &ran);
        let rows = job.rows();
        rows.expect_masks(&format!("{host}/data/source/0.png"));
        rows.expect_masks(&format!("{host}/data/source/1.png"));
        expect_clean_commands(&job);

        // The addresses are where they are needed: the second run has nothing else to go by.
        server.remove(DATA, "source/list.csv");
        let items = server.keys(OUT, "job/_plan/").into_iter();
        let items = items.filter(|key| key.ends_with(".parquet"));
        let planned: Vec<String> = items
            .flat_map(|key| read_plan_rows(server.get(OUT, &key).unwrap()).unwrap().0)
            .filter_map(|row| row.uri)
            .collect();
        assert!(planned.contains(&list[1]), "{planned:?}");
        for again in ["--retry-failed", "--retry-rejects"] {
            expect_clean(again, &job.job("run", &[again]));
            expect_clean_output(&server);
        }
        expect_clean("fetch", &job.job("run", &["--stop-after", "fetch"]));
    }
}

#[test]
fn settings_and_locations_with_secrets_in_them_are_refused_without_them() {
    let server = Arc::new(LoopbackS3::start());
    let refused = |setting: &str| {
        let mut job = of_images(&server, "text");
        job.set(setting);
        let ran = job.run();
        ran.expect_code(2);
        expect_clean(setting.split('=').next().unwrap(), &ran);
    };
    let locations = [
        format!("s3://user:{PASSWORD}@bucket/x"),
        format!("https://user:{PASSWORD}@host/x.tar"),
        format!("https://user:pass/{PASSWORD}@host/x.tar"),
        format!("https://host/x.tar?X-Amz-Signature={SIGNATURE}&token={TOKEN}"),
        format!("ftp://user:{PASSWORD}@host/x"),
        format!("s3:user:{PASSWORD}@host/x"),
    ];
    for location in &locations {
        for key in [
            "source.path",
            "output.root",
            "store.s3_endpoint",
            "model.checkpoint",
        ] {
            refused(&format!("{key}={location}"));
        }
    }
    refused(&format!("store.s3_secret_access_key={PASSWORD}"));
    refused(&format!("store.password={PASSWORD}"));
    refused(&format!("store.s3_region=s3://{PASSWORD}@x"));

    for (file, text) in [
        (
            "config.toml",
            format!(
                "[output]\nroot = \"s3://out\"\n[store]\ns3_secret_access_key = \"{PASSWORD}\"\n"
            ),
        ),
        (
            "config.toml",
            format!("[output]\nroot = \"s3://user:{PASSWORD}@out\"\n"),
        ),
        (
            "config.toml",
            format!("[output]\nroot = \"s3://user:{PASSWORD}@out\n"),
        ),
        ("config.toml", format!("token = {TOKEN}\n")),
        (
            "pipeline.toml",
            format!("name = \"x\"\n[source]\npath = \"https://user:{PASSWORD}@h/x\" y\n"),
        ),
        (
            "pipeline.toml",
            format!("name = \"https://h/x?X-Amz-Signature={SIGNATURE}\"\n"),
        ),
    ] {
        let job = of_images(&server, "json");
        fs::write(job.path(file), text).unwrap();
        let ran = job.run();
        ran.expect_code(2);
        expect_clean(file, &ran);
    }

    let job = of_images(&server, "text");
    // The last is a path on this machine here.
    for location in &locations[..5] {
        for command in ["status", "verify", "finalize", "gc"] {
            let ran = job.maskmill(&[command, location]);
            ran.expect_code(2);
            expect_clean(command, &ran);
        }
        let export = job.maskmill(&["export", location, "--format", "sa1b", "--out", "x"]);
        expect_clean("export", export.expect_code(2));
        let view = job.maskmill(&["view", location, "--image", "x"]);
        expect_clean("view", view.expect_code(2));
    }
    expect_clean_output(&server);
}

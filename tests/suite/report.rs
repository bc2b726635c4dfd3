//! The report of a large survey, and its page in a browser.

use std::path::Path;
use std::process::Command;

use unseeing::product::{ObjectRecord, ShardMeta, write_shard};

use crate::common::unseeing;
use crate::products::meta;

const OBJECTS: usize = 10_000;

/// A product file of objects whose images are tiny: the page is what is tested.
fn products(path: &Path, objects: usize) {
    let meta = ShardMeta { size: 8, samples: 2, kept_draws: 0, ..meta() };
    let records: Vec<ObjectRecord> = (0..objects)
        .map(|index| {
            if index % 1000 == 999 {
                return ObjectRecord::failed(&format!("object <{index}>"), "a reason");
            }
            let mut record = ObjectRecord::done(&format!("object <{index}>"));
            record.set_scalar("redshift", (index * 7919 % objects) as f64 / objects as f64);
            record.set_scalar("reduced_chi2_galaxy", 0.8 + 0.4 * (index % 100) as f64 / 100.0);
            record.samples.push(("r50".into(), vec![1.0, 3.0]));
            record
        })
        .collect();
    write_shard(path, &records, &meta).unwrap();
}

/// What a person would do: sort by redshift both ways, search, go to the next page and to an object's link.
const CLICKS: &str = r##"<script>
const told = [], first = () => document.querySelector("#body tr td").textContent;
const click = key => document.querySelector(`th[data-key="${key}"]`).click();
told.push(document.querySelectorAll("#body tr").length, get("place").textContent, first());
get("on").click(); told.push(get("place").textContent, first());
click("z"); told.push(first()); click("z"); told.push(first());
get("search").value = "failed"; get("search").oninput(); told.push(get("place").textContent);
get("search").value = ""; get("search").oninput();
location.hash = "#" + encodeURIComponent("object <5000>"); go();
told.push(!!document.getElementById("object-object <5000>"));
document.title = "TOLD " + JSON.stringify(told);
</script>"##;

#[test]
fn reports_of_ten_thousand_objects_sort_and_page() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("survey.h5"), folder.path().join("report"));
    products(&file, OBJECTS);
    let output = unseeing().arg("report").arg(&file).arg("--no-pictures").arg("--out").arg(&out).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let page = out.join("index.html");
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(text.contains("10000 objects, 10 failed") && text.len() < 5_000_000, "{} bytes", text.len());
    let browser = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|browser| Command::new(browser).arg("--version").output().is_ok_and(|output| output.status.success()));
    let Some(browser) = browser else {
        println!("SKIPPED: needs Chromium, to click on the page");
        return;
    };
    std::fs::write(&page, text + CLICKS).unwrap();
    let mut command = Command::new(browser);
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", folder.path().join("browser").display()));
    let output = command.arg(format!("file://{}", page.display())).output().unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    let told = dom.split("<title>TOLD ").nth(1).and_then(|rest| rest.split("</title>").next());
    let told =
        told.unwrap_or_else(|| panic!("the page's script did not end: {}", String::from_utf8_lossy(&output.stderr)));
    let told: serde_json::Value = serde_json::from_str(&told.replace("&lt;", "<").replace("&gt;", ">")).unwrap();
    // 7919 * 2 is a multiple of the number of objects nowhere but at 0: the highest redshift is of the index below.
    let highest = (0..OBJECTS).filter(|index| index % 1000 != 999).max_by_key(|index| index * 7919 % OBJECTS).unwrap();
    let expected = serde_json::json!([
        20,
        "page 1 of 500, 10000 objects",
        "object <0>",
        "page 2 of 500, 10000 objects",
        "object <20>",
        "object <0>",
        format!("object <{highest}>"),
        "page 1 of 1, 10 objects",
        true
    ]);
    assert_eq!(told, expected);
}

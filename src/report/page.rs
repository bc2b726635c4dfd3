//! The report as one HTML page without network: summary, distributions, and a table that sorts, searches and pages, so that
//! 10,000 objects are as easy as three. Only the pictures of the page that is shown are loaded.

use serde_json::json;

use super::chart::Chart;
use super::table::Line;
use crate::posterior::Flag;
use crate::{Error, Result};

/// With so many objects or fewer the pictures are inside the page; else they are files beside it.
pub const EMBEDDED: usize = 24;
/// Bars of the histogram of chi^2, and its upper end.
const BARS: usize = 40;
const CHI2_END: f64 = 4.0;

/// Text for HTML, in elements and in attributes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// The page. `picture` gives the PNG of a line that is to be embedded, `None` where the file beside the page is meant;
/// `note` says what is missing of the run. `figures` are PNGs with their names: calibration plots, say.
pub fn html(
    title: &str,
    lines: &[Line],
    note: Option<&str>,
    figures: &[(String, Vec<u8>)],
    picture: &dyn Fn(&Line) -> Option<Vec<u8>>,
) -> Result<String> {
    let failed = lines.iter().filter(|line| line.status == "failed").count();
    let seconds: f64 = lines.iter().filter_map(|line| line.seconds).sum();
    let mut summary = format!("<p>{} objects, {failed} failed", lines.len());
    if seconds > 0.0 {
        summary += &format!(
            "; {:.1} s of work an object, {:.0} objects an hour and rank",
            seconds / lines.len() as f64,
            3600.0 * lines.len() as f64 / seconds
        );
    }
    summary += ".</p>";
    if let Some(note) = note {
        summary += &format!("<p class=\"note\">{}</p>", escape(note));
    }
    summary += "<table class=\"flags\"><tr><th>flag</th><th>objects</th><th>meaning</th></tr>";
    for flag in Flag::ALL {
        let count = lines.iter().filter(|line| line.flags.contains(&flag.name())).count();
        if count > 0 {
            summary += &format!("<tr><td>{}</td><td>{count}</td><td>{}</td></tr>", flag.name(), escape(flag.meaning()));
        }
    }
    summary += "</table>";
    if let Some(chart) = chi2_chart(lines)? {
        summary += &format!("<img alt=\"distribution of chi^2\" src=\"{}\">", data_url(&chart));
    }
    for (name, png) in figures {
        let name = escape(name);
        summary += &format!("<h2>{name}</h2><img alt=\"{name}\" src=\"{}\">", data_url(png));
    }
    let rows: Vec<_> = lines
        .iter()
        .map(|line| {
            let shown = picture(line).map(|png| data_url(&png)).or_else(|| line.picture.clone());
            json!({
                "id": line.id, "status": line.status, "reason": line.reason, "flags": line.flags.join(" "),
                "z": line.redshift, "chi2": line.reduced_chi2, "chi2_galaxy": line.reduced_chi2_galaxy,
                "flux": line.flux, "flux_sd": line.flux_sd,
                "cmodel": line.cmodel_flux, "cmodel_error": line.cmodel_flux_error, "cmodel_model": line.cmodel_flux_model, "r50": line.r50, "r50_sd": line.r50_sd,
                "variance_ratio": line.variance_ratio_paper, "picture": shown,
            })
        })
        .collect();
    // Nothing in a text can end the script.
    let rows =
        serde_json::to_string(&rows).map_err(|error| Error::internal(error.to_string()))?.replace('<', "\\u003c");
    Ok(TEMPLATE.replace("@TITLE@", &escape(title)).replace("@SUMMARY@", &summary).replace("@ROWS@", &rows))
}

/// The histogram of the galaxies' chi^2, as PNG; `None` when there is none.
fn chi2_chart(lines: &[Line]) -> Result<Option<Vec<u8>>> {
    let values: Vec<f64> =
        lines.iter().filter_map(|line| line.reduced_chi2_galaxy).filter(|value| value.is_finite()).collect();
    if values.is_empty() {
        return Ok(None);
    }
    let mut counts = vec![0.0; BARS];
    for value in values {
        counts[((value / CHI2_END * BARS as f64) as usize).min(BARS - 1)] += 1.0;
    }
    let chart = Chart::new("Reduced chi^2 in the galaxies (the last bar holds all above)", "chi^2", "objects");
    Ok(Some(chart.histogram(&counts, (0.0, CHI2_END), None)?.png()?))
}

/// A PNG as a `data:` URL.
fn data_url(png: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("data:image/png;base64,");
    for part in png.chunks(3) {
        let number = part.iter().fold(0u32, |number, &byte| number << 8 | u32::from(byte)) << (8 * (3 - part.len()));
        for digit in 0..4 {
            let shown = digit <= part.len();
            text.push(if shown { DIGITS[(number >> (18 - 6 * digit)) as usize & 63] as char } else { '=' });
        }
    }
    text
}

const TEMPLATE: &str = r##"<!doctype html><meta charset="utf-8"><title>@TITLE@</title>
<style>body{font-family:sans-serif;margin:1em 2em}td,th{padding:2px 8px;text-align:left}th[data-key]{cursor:pointer}
.note{color:#a00}img{max-width:100%}.flags{font-size:90%}tr:target{background:#ffd}nav{margin:.6em 0}</style>
<h1>@TITLE@</h1>@SUMMARY@
<nav><input id="search" placeholder="id, flag, reason or status"> <button id="back">&lt;</button>
<span id="place"></span> <button id="on">&gt;</button> <label><input type="checkbox" id="pictures" checked> pictures</label></nav>
<table><thead><tr id="head"></tr></thead><tbody id="body"></tbody></table>
<script type="application/json" id="rows">@ROWS@</script>
<script>
"use strict";
const rows = JSON.parse(document.getElementById("rows").textContent);
const keys = ["id", "status", "z", "chi2", "chi2_galaxy", "flux", "flux_sd", "cmodel", "cmodel_error", "cmodel_model", "r50", "r50_sd", "variance_ratio", "flags", "reason"];
const size = 20;
let shown = rows, page = 0, by = null, up = true;
const get = id => document.getElementById(id);
const text = value => value === null || value === undefined ? "" : typeof value === "number" ? String(+value.toPrecision(4)) : value;
for (const key of keys) {
  const cell = document.createElement("th");
  cell.textContent = key; cell.dataset.key = key;
  cell.onclick = () => { up = by === key ? !up : true; by = key; page = 0; update(); };
  get("head").append(cell);
}
function update() {
  const wanted = get("search").value.toLowerCase();
  shown = rows.filter(row => ["id", "status", "flags", "reason"].some(key => String(row[key]).toLowerCase().includes(wanted)));
  if (by) shown = [...shown].sort((a, b) => {
    const [x, y] = [a[by], b[by]];
    // What is unknown comes last, either way.
    if (x === null || y === null) return (x === null) - (y === null);
    return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
  });
  show();
}
function show() {
  const pages = Math.max(1, Math.ceil(shown.length / size));
  page = Math.min(Math.max(page, 0), pages - 1);
  get("place").textContent = `page ${page + 1} of ${pages}, ${shown.length} objects`;
  const body = get("body");
  body.replaceChildren();
  for (const row of shown.slice(page * size, (page + 1) * size)) {
    const line = document.createElement("tr");
    line.id = "object-" + row.id;
    for (const key of keys) {
      const cell = document.createElement("td");
      if (key === "id") {
        const link = document.createElement("a");
        link.href = "#" + encodeURIComponent(row.id); link.textContent = row.id;
        cell.append(link);
      } else cell.textContent = text(row[key]);
      line.append(cell);
    }
    body.append(line);
    if (row.picture && get("pictures").checked) {
      const cell = document.createElement("td"), picture = document.createElement("img");
      cell.colSpan = keys.length; picture.loading = "lazy"; picture.alt = row.id;
      picture.src = row.picture.startsWith("data:") ? row.picture : encodeURIComponent(row.picture);
      cell.append(picture);
      const under = document.createElement("tr");
      under.append(cell);
      body.append(under);
    }
  }
}
function go() {
  const id = decodeURIComponent(location.hash.slice(1)), at = shown.findIndex(row => row.id === id);
  if (id && at >= 0) { page = Math.floor(at / size); show(); get("object-" + id).scrollIntoView(); }
}
get("search").oninput = () => { page = 0; update(); };
get("pictures").onchange = show;
get("back").onclick = () => { page -= 1; show(); };
get("on").onclick = () => { page += 1; show(); };
window.onhashchange = go;
update(); go();
</script>
"##;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::ObjectRecord;

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648, section 10.
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(data_url(bytes.as_bytes()), format!("data:image/png;base64,{text}"));
        }
    }

    #[test]
    fn text_of_the_catalogue_cannot_become_markup() {
        let record = ObjectRecord::failed("</script><img src=x onerror=alert(1)>", "<b>\"'&");
        let line = Line::of(&record, 1, None, None);
        let page = html("<t> & \"u\"", &[line], Some("1 < 2"), &[("<i>".into(), vec![1])], &|_| None).unwrap();
        assert!(page.contains("<title>&lt;t&gt; &amp; &quot;u&quot;</title>") && page.contains("1 &lt; 2"));
        assert!(page.contains("<h2>&lt;i&gt;</h2><img alt=\"&lt;i&gt;\" src=\"data:image/png;base64,AQ==\">"));
        assert!(!page.contains("<img src=x") && !page.contains("<b>") && page.matches("</script>").count() == 2);
        // What the page shows is what the catalogue says.
        let rows = page.split("id=\"rows\">").nth(1).unwrap().split("</script>").next().unwrap();
        let rows: serde_json::Value = serde_json::from_str(rows).unwrap();
        assert_eq!((&rows[0]["id"], &rows[0]["reason"]), (&record.id.into(), &record.reason.into()));
        assert!(!page.contains("http"), "nothing comes from a network");
    }

    #[test]
    fn ten_thousand_objects_are_one_page_of_a_few_megabytes() {
        let line = |index: usize| {
            let mut record = ObjectRecord::done(&format!("object-{index}"));
            record.set_scalar("reduced_chi2_galaxy", 1.0 + index as f64 / 1e4);
            Line::of(&record, 1, Some(2.0), Some(format!("object-{index}.png")))
        };
        let lines: Vec<Line> = (0..10_000).map(line).collect();
        let page = html("many", &lines, None, &[], &|_| None).unwrap();
        assert!(page.len() < 5_000_000, "{} bytes", page.len());
        assert_eq!(page.matches("<img").count(), 1, "only the chart is in the page itself");
        assert!(page.contains("1800 objects an hour and rank"));
    }
}

"""The page in a real browser (Chromium or Chrome, headless, without a network); skipped where there is none."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from usdn_nas.report import Run, write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.sweep, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]

LOOK = """
<script>
window.addEventListener("load", () => {
  const chart = document.querySelector("#front-chart svg"), frame = chart.getBoundingClientRect();
  const points = [...chart.querySelectorAll("circle.front")];
  const send = (name, x, y) => chart.dispatchEvent(new PointerEvent(name, { clientX: x, clientY: y, bubbles: true }));
  const at = (p) => [frame.left + +p.getAttribute("cx"), frame.top + +p.getAttribute("cy")];
  const text = (selector) => (document.querySelector(selector) || {}).innerText || null;
  const apart = (p) => Math.min(...points.filter((q) => q !== p)
    .map((q) => Math.hypot(at(p)[0] - at(q)[0], at(p)[1] - at(q)[1])));
  const target = points.reduce((best, p) => (apart(p) > apart(best) ? p : best));
  send("pointermove", ...at(target));
  const hover = text(".tip");
  send("click", ...at(target));
  const panel = text("#front-point");
  send("pointerleave", 0, 0);
  const kept = chart.querySelector(".kept");
  chart.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  chart.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  const found = {
    hover, panel, keys: text(".tip b"), points: points.length, target: points.indexOf(target), errors: window.errors,
    kept: [kept.getAttribute("visibility"), kept.getAttribute("cx") === target.getAttribute("cx")],
    page: getComputedStyle(document.body).backgroundColor, wide: document.documentElement.scrollWidth - innerWidth,
  };
  document.body.insertAdjacentHTML("beforeend", "<pre id=found></pre>");
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>
"""
CATCH = "<script>window.errors = []; window.addEventListener('error', (e) => window.errors.push(e.message));</script>"


def look(run: Run, folder: Path, *flags: str) -> dict[str, Any]:
    """What a visitor meets who hovers, clicks and walks with the keys."""
    path = write_report(run, folder / "report.html")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("<head>", f"<head>{CATCH}").replace("</body>", f"{LOOK}</body>"), encoding="utf-8")
    offline = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    ways = [*offline, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", *flags]
    assert BROWSER is not None
    done = subprocess.run([BROWSER, *ways, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    return dict(json.loads(unescape(found.group(1))))


def test_hover_click_and_keys(short_run: Run, tmp_path: Path) -> None:
    found = look(short_run, tmp_path, "--window-size=1100,900")
    assert found["errors"] == [] and found["points"] == len(short_run.front) and found["wide"] <= 0
    aimed = short_run.front.iloc[found["target"]]
    for shown in (found["hover"], found["panel"]):
        assert shown.startswith(aimed["trial"]) and f"{100 * aimed['accuracy']:.2f}%" in shown
        assert all(name in shown for name in aimed["exits"])
        assert all(aimed[group.name] in shown for group in short_run.space.groups)
    assert f"--trial {aimed['trial']}" in found["panel"]
    assert found["kept"] == ["visible", True], "the marked point stays marked when the pointer is gone"
    assert found["keys"] == short_run.front["trial"].iloc[1]


def test_dark_and_narrow(resnet18: Run, tmp_path: Path) -> None:
    light = look(resnet18, tmp_path / "light", "--window-size=500,900", "--blink-settings=preferredColorScheme=1")
    dark = look(resnet18, tmp_path / "dark", "--window-size=500,900", "--blink-settings=preferredColorScheme=0")
    for found in (light, dark):
        assert found["errors"] == [] and found["wide"] <= 0, "nothing sticks out sideways"
    assert light["page"] == "rgb(246, 247, 249)" and dark["page"] == "rgb(16, 19, 23)"

"""The script that makes the report's Pareto front interactive. Without JavaScript, the static figure is shown."""

__all__ = ["SCRIPT"]

SCRIPT = r"""
(() => {
  const data = JSON.parse(document.getElementById("front-data").textContent);
  const box = document.getElementById("front-chart");
  const panel = document.getElementById("front-point");
  const node = (name, attributes, parent) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return parent ? parent.appendChild(element) : element;
  };
  const html = (name, text, parent) => {
    const element = document.createElement(name);
    element.textContent = text;
    return parent.appendChild(element);
  };
  const digits = (value) => (value >= 100 ? value.toFixed(1) : value.toPrecision(4));
  const ticks = (low, high, count) => {
    const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const out = [];
    for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) out.push(v);
    return [out, Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (step / power === 2.5 ? 1 : 0))];
  };
  const powers = (low, high) => {
    const out = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p++) {
      [1, 2, 5].map((m) => m * 10 ** p).filter((v) => v >= low && v <= high).forEach((v) => out.push(v));
    }
    return out;
  };
  const shape = (kind, x, y, parent, css) => {
    const star = () => Array.from({ length: 10 }, (_, i) => {
      const r = i % 2 ? 4 : 10, a = -Math.PI / 2 + (i * Math.PI) / 5;
      return `${x + r * Math.cos(a)},${y + r * Math.sin(a)}`;
    }).join(" ");
    const points = {
      triangle: `${x},${y - 6} ${x + 5.5},${y + 4.5} ${x - 5.5},${y + 4.5}`,
      diamond: `${x},${y - 6} ${x + 6},${y} ${x},${y + 6} ${x - 6},${y}`,
      square: `${x - 4.5},${y - 4.5} ${x + 4.5},${y - 4.5} ${x + 4.5},${y + 4.5} ${x - 4.5},${y + 4.5}`,
    };
    return node("polygon", { points: kind === "star" ? star() : points[kind], class: css }, parent);
  };
  const lines = (point) => {
    const out = [`${point.y.toFixed(2)}% at ${digits(point.x)} ${data.unit} (${point.split})`];
    if (point.exits) {
      out.push(point.exits.length
        ? "exits: " + point.exits.map(([name, th]) => (th === null ? name : `${name} ≥ ${th.toFixed(3)}`)).join(", ")
        : "no early exit");
    }
    return out;
  };
  const marks = [...data.ladder, ...data.marks];
  const solid = [...data.front, ...marks];
  const hoverable = [...solid, ...data.trials.filter((p) => p.y >= data.floor)];
  let places = [], tip = null, ring = null, kept = null, svg = null, at = -1, pinned = -1;

  const show = (index) => {
    at = index;
    if (tip) tip.remove();
    tip = null;
    if (index < 0) { ring.setAttribute("visibility", "hidden"); return; }
    const point = hoverable[index], [x, y] = places[index];
    ring.setAttribute("visibility", "visible");
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    tip = document.createElement("div");
    tip.className = "tip";
    html("b", point.name, tip);
    lines(point).forEach((line) => html("div", line, tip));
    if (point.bits && data.groups.length <= 24) {
      html("div", "W/A: " + data.groups.map((g, i) => `${g} ${point.bits[i]}`).join(", "), tip);
    } else if (point.bits) html("div", `${data.groups.length} groups: click for their bits`, tip);
    box.appendChild(tip);
    const room = box.clientWidth - tip.offsetWidth;
    tip.style.left = Math.max(0, Math.min(room, x + (x > box.clientWidth / 2 ? -tip.offsetWidth - 14 : 14))) + "px";
    tip.style.top = (y > tip.offsetHeight + 16 ? y - tip.offsetHeight - 12 : y + 14) + "px";
  };
  const mark = () => {
    if (pinned < 0) return;
    kept.setAttribute("visibility", "visible");
    kept.setAttribute("cx", places[pinned][0]);
    kept.setAttribute("cy", places[pinned][1]);
  };
  const pin = () => {
    if (at < 0) return;
    pinned = at;
    mark();
    const point = hoverable[at];
    panel.replaceChildren();
    html("b", point.name, panel);
    lines(point).forEach((line) => html("div", line, panel));
    if (point.bits) {
      const list = document.createElement("ul");
      list.className = "chips";
      data.groups.forEach((group, i) => html("li", `${group} ${point.bits[i]}`, list));
      panel.appendChild(list);
    }
    if (pinned < data.front.length) {
      html("code", `usdn-nas export ${data.run} --trial ${point.name}`, html("div", "Export it: ", panel));
    }
    panel.hidden = false;
  };
  const nearest = (event) => {
    const frame = svg.getBoundingClientRect(), x = event.clientX - frame.left, y = event.clientY - frame.top;
    let best = -1, least = 26 ** 2;
    places.forEach(([px, py], i) => {
      const d = (px - x) ** 2 + (py - y) ** 2 + (i >= solid.length ? 60 : 0);
      if (d < least) { least = d; best = i; }
    });
    return best;
  };
  const draw = () => {
    const width = box.clientWidth, height = Math.round(Math.max(300, Math.min(460, width * 0.58)));
    const left = 58, right = 12, top = 10, bottom = 44;
    const xs = solid.map((p) => p.x), ys = hoverable.map((p) => p.y);
    const [x0, x1] = [Math.min(...xs), Math.max(...xs)], [y0, y1] = [data.floor, Math.max(...ys)];
    const scale = data.log ? Math.log10 : (v) => v;
    const [s0, s1] = [scale(x0), scale(x1)], padX = 0.05 * (s1 - s0 || s1 || 1), padY = 0.06 * (y1 - y0 || 1);
    const X = (v) => left + ((scale(v) - s0 + padX) / (s1 - s0 + 2 * padX)) * (width - left - right);
    const Y = (v) => height - bottom - ((v - y0) / (y1 - y0 + padY)) * (height - top - bottom);
    const label = box.getAttribute("aria-label");
    const view = `0 0 ${width} ${height}`;
    svg = node("svg", { width, height, viewBox: view, role: "img", tabindex: 0, "aria-label": label });
    const text = (x, y, content, more) => { node("text", { x, y, ...more }, svg).textContent = content; };
    const [tx, dx] = data.log
      ? [powers(10 ** (s0 - padX), 10 ** (s1 + padX)), null] : ticks(s0 - padX, s1 + padX, width / 90);
    const [ty, dy] = ticks(y0, y1 + padY, 6);
    tx.forEach((v) => {
      node("line", { x1: X(v), x2: X(v), y1: top, y2: height - bottom, class: "grid" }, svg);
      const number = dx === null ? String(+v.toPrecision(1)) : v.toFixed(dx);
      text(X(v), height - bottom + 17, number, { "text-anchor": "middle" });
    });
    ty.forEach((v) => {
      node("line", { x1: left, x2: width - right, y1: Y(v), y2: Y(v), class: "grid" }, svg);
      text(left - 6, Y(v) + 4, v.toFixed(dy), { "text-anchor": "end" });
    });
    node("path", { d: `M${left} ${top}V${height - bottom}H${width - right}`, fill: "none", class: "axis" }, svg);
    const axis = `average ${data.unit} per image${data.log ? " (log scale)" : ""}`;
    text((left + width - right) / 2, height - 8, axis, { "text-anchor": "middle" });
    const turned = `translate(12 ${(height - bottom) / 2}) rotate(-90)`;
    text(0, 0, "accuracy (%)", { "text-anchor": "middle", transform: turned });
    data.trials.filter((p) => p.y >= data.floor)
      .forEach((p) => node("circle", { cx: X(p.x), cy: Y(p.y), r: 2.4, class: "trial" }, svg));
    const path = (points, step) => points.map((p, i) => {
      const across = step && i ? `H${X(p.x)}` : "";
      return `${across}${i ? "L" : "M"}${X(p.x)} ${Y(p.y)}`;
    }).join("");
    node("path", { d: path(data.ladder, false), class: "rung" }, svg);
    data.ladder.forEach((p) => {
      shape("triangle", X(p.x), Y(p.y), svg, "ladder");
      text(X(p.x) + 8, Y(p.y) + 14, p.bits_label, X(p.x) > width - 60 ? { "text-anchor": "end", dx: -14 } : {});
    });
    node("path", { d: path(data.front, true), class: "step" }, svg);
    data.front.forEach((p) => node("circle", { cx: X(p.x), cy: Y(p.y), r: 3.4, class: "front" }, svg));
    data.marks.forEach((p) => shape(p.shape, X(p.x), Y(p.y), svg, p.css));
    kept = node("circle", { r: 11, class: "kept", visibility: "hidden" }, svg);
    ring = node("circle", { r: 9, class: "ring", visibility: "hidden" }, svg);
    places = hoverable.map((p) => [X(p.x), Y(p.y)]);
    mark();
    svg.addEventListener("pointermove", (event) => show(nearest(event)));
    svg.addEventListener("pointerleave", () => show(-1));
    svg.addEventListener("click", (event) => { show(nearest(event)); pin(); });
    svg.addEventListener("blur", () => show(-1));
    svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (move && data.front.length) {
        const from = at >= 0 && at < data.front.length ? at : move > 0 ? -1 : data.front.length;
        show(Math.max(0, Math.min(data.front.length - 1, from + move)));
      } else if (event.key === "Enter") pin();
      else if (event.key === "Escape") show(-1);
      else return;
      event.preventDefault();
    });
    tip = null;
    at = -1;
    box.replaceChildren(svg);
  };
  const legend = document.getElementById("front-legend");
  data.legend.forEach(([kind, css, label]) => {
    const item = html("li", "", legend), icon = node("svg", { viewBox: "0 0 22 14", "aria-hidden": true }, item);
    if (kind === "dot") node("circle", { cx: 11, cy: 7, r: 3, class: css }, icon);
    else if (kind === "line") {
      node("path", { d: "M1 7H21", class: "step" }, icon);
      node("circle", { cx: 11, cy: 7, r: 3.4, class: css }, icon);
    } else shape(kind, 11, 7, icon, css);
    item.append(label);
  });
  box.classList.add("live");
  legend.hidden = false;
  draw();
  let drawn = box.clientWidth;
  new ResizeObserver(() => { if (box.clientWidth !== drawn) { drawn = box.clientWidth; draw(); } }).observe(box);
})();
"""

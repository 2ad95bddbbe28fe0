"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const tip = document.getElementById("tip");
  // Okabe and Ito's colours; the last stands in for black and yellow, which vanish on one of the two grounds.
  const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#8a8f98"];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon"];
  const STATUS = {o: "ok", c: "clamped: the last frame stands in", b: "bad: no frame"};
  const CONFIG = {displaylogo: false, responsive: false, displayModeBar: false, scrollZoom: false, doubleClick: "reset"};
  const narrow = () => window.innerWidth <= 560;

  // --- small things
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "text") node.textContent = value;
      else if (name === "style") Object.assign(node.style, value);
      else if (value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  };
  const clock = (seconds) => {
    if (seconds < 60) return seconds.toFixed(2).replace(/\.?0+$/, "") + " s";
    const whole = Math.floor(seconds / 60), rest = (seconds - 60 * whole).toFixed(1).replace(/\.0$/, "");
    return whole < 60 ? `${whole} min ${rest} s` : `${Math.floor(whole / 60)} h ${whole % 60} min ${Math.floor(rest)} s`;
  };
  const nearest = (sorted, value) => {
    let low = 0, high = sorted.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; if (sorted[middle] <= value) low = middle; else high = middle; }
    return Math.abs(sorted[high] - value) < Math.abs(sorted[low] - value) ? high : low;
  };
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // A cell of a sheet as an element of the given height (and width: then it is cropped to its middle).
  const picture = (sheetNumber, cell, height, width, label) => {
    const sheet = data.sheets[sheetNumber];
    if (!sheet || cell < 0) return null;
    const scale = height / sheet.h, natural = sheet.w * scale, shown = Math.min(width || natural, natural);
    const left = (cell % sheet.columns) * natural + (natural - shown) / 2, top = Math.floor(cell / sheet.columns) * height;
    return make("span", {
      class: "pic", role: label ? "img" : null, "aria-label": label || null, "aria-hidden": label ? null : "true",
      style: {
        width: shown + "px", height: height + "px", backgroundImage: `url(${sheet.src})`,
        backgroundSize: `${natural * sheet.columns}px auto`, backgroundPosition: `${-left}px ${-top}px`,
      },
    });
  };

  // --- charts: drawn when they come near the window, drawn anew when the theme changes
  const painters = {};
  const layout = (more) => {
    const soft = css("--soft"), grid = css("--grid");
    const axis = (given = {}) => ({
      gridcolor: grid, zerolinecolor: grid, linecolor: css("--line"), tickfont: {color: soft, size: 11}, automargin: false,
      fixedrange: true, ...given, title: {text: given.title || "", font: {color: soft, size: 12}, standoff: 6},
    });
    const result = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, dragmode: false,
      font: {family: "system-ui, sans-serif", color: css("--ink"), size: 12}, hovermode: "closest",
      hoverlabel: {bgcolor: css("--card"), bordercolor: css("--line"), font: {color: css("--ink"), size: 12}, align: "left"},
      margin: {l: 52, r: 12, t: 8, b: 40}, autosize: true, ...more,
    };
    for (const name of ["xaxis", "yaxis", "xaxis2", "yaxis2"]) if (result[name]) result[name] = axis(result[name]);
    return result;
  };
  const state = {drawn: 0, failed: []};
  const draw = async (node) => {
    try {
      await painters[node.dataset.chart](node);
      if (node._fullLayout && Math.abs(node._fullLayout.width - node.clientWidth) > 1) await Plotly.Plots.resize(node);
      if (!node.dataset.drawn) { node.dataset.drawn = "yes"; state.drawn += 1; }
    } catch (error) {
      state.failed.push(String(error));
      console.error(error);
    }
  };
  const charts = [...document.querySelectorAll("[data-chart]")];
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); }
  }, {rootMargin: "300px"});
  const redraw = () => Promise.all(charts.filter((node) => node.dataset.drawn).map(draw));
  const ownerOf = (node) => node.closest("[data-video]");
  const backboneOf = (node) => data.backbones[node.closest("[data-of]").dataset.of];

  // --- stages
  const short = (text) => text.length > (narrow() ? 16 : 30) ? text.slice(0, narrow() ? 15 : 29) + "…" : text;
  // Chart text knows a little markup: a name must not become any.
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const stageLabel = (stage) => plain(stage.rule) + (stage.part ? "<br>" + plain(short(stage.part)) : "");
  painters.stages = (node) => {
    const stages = [...data.stages].reverse(), labels = stages.map(stageLabel);
    return Plotly.react(node, [
      {type: "bar", orientation: "h", name: "time of jobs", y: labels, x: stages.map((stage) => stage.seconds), marker: {color: css("--mark")},
        hovertemplate: "%{y}: %{x:.1f} s<extra></extra>"},
      {type: "bar", orientation: "h", name: "of the CPUs", y: labels, x: stages.map((stage) => stage.cpu), marker: {color: css("--mark3")},
        hovertemplate: "%{y}: %{x:.1f} s of CPU<extra></extra>"},
    ], layout({
      margin: {l: 20, r: 16, t: 30, b: 40}, barmode: "group", bargap: 0.35, bargroupgap: 0.05, showlegend: true,
      legend: {orientation: "h", x: 1, xanchor: "right", y: 1.02, yanchor: "bottom", font: {size: 11, color: css("--soft")}, traceorder: "reversed"},
      xaxis: {title: "seconds, summed over jobs", rangemode: "tozero"}, yaxis: {automargin: true},
    }), CONFIG);
  };
  painters.rates = (node) => {
    const stages = data.stages.filter((stage) => stage.rates.length).reverse();
    const labels = stages.map(stageLabel);
    const part = (place) => stages.map((stage) => stage.rates[place]);
    return Plotly.react(node, [{
      type: "box", orientation: "h", y: labels, lowerfence: part(0), q1: part(1), median: part(2), q3: part(3), upperfence: part(4),
      line: {color: css("--mark"), width: 2}, fillcolor: css("--look-back"), width: stages.map(() => 0.5),
    }], layout({
      margin: {l: 20, r: 16, t: 8, b: 40},
      xaxis: {title: "frames per second of a job", rangemode: "tozero"}, yaxis: {automargin: true},
    }), CONFIG);
  };

  // --- histograms
  painters.histogram = (node) => {
    const shown = backboneOf(node)[node.dataset.what], edges = shown.edges;
    const middles = shown.counts.map((_, place) => (edges[place] + edges[place + 1]) / 2);
    return Plotly.react(node, [{
      type: "bar", x: middles, y: shown.counts, width: edges.length > 1 ? edges[1] - edges[0] : 1, marker: {color: css("--mark"), line: {width: 0}},
      customdata: middles.map((_, place) => [edges[place], edges[place + 1]]),
      hovertemplate: "%{customdata[0]:.4g} to %{customdata[1]:.4g}: %{y} rows<extra></extra>",
    }], layout({
      margin: {l: 46, r: 8, t: 6, b: 28}, bargap: 0.04, xaxis: {nticks: 7}, yaxis: {nticks: 5, rangemode: "tozero"},
      annotations: shown.counts.length ? [] : [{text: "no values", showarrow: false, font: {color: css("--soft")}}],
    }), CONFIG);
  };

  // --- one video: filmstrip, curves, matrix, and one cursor through them all
  const videos = new Map();
  const videoOf = (node) => {
    const owner = ownerOf(node);
    if (!videos.has(owner)) videos.set(owner, prepare(owner));
    return videos.get(owner);
  };
  const margins = () => narrow() ? {l: 44, r: 8, t: 6, b: 36} : {l: 52, r: 12, t: 6, b: 38};
  const prepare = (owner) => {
    const shown = backboneOf(owner).details[owner.dataset.video];
    const times = shown.time, last = times.length ? times[times.length - 1] : 0, first = times.length ? times[0] : 0;
    const step = times.length > 1 ? (last - first) / (times.length - 1) : 1;
    const bytes = Uint8Array.from(atob(shown.similarity), (letter) => letter.charCodeAt(0));
    const video = {owner, shown, first: first - step / 2, last: last + step / 2, bytes, at: 0};
    const slider = owner.querySelector("[data-role=row]");
    slider.max = Math.max(0, times.length - 1);
    slider.addEventListener("input", () => moveTo(video, Number(slider.value)));
    const strip = owner.querySelector(".strip");
    const fromPointer = (event) => {
      const box = strip.getBoundingClientRect();
      moveTo(video, nearest(times, video.first + (event.clientX - box.left) / box.width * (video.last - video.first)));
    };
    if (times.length) strip.addEventListener("pointermove", fromPointer);
    if (times.length) strip.addEventListener("pointerdown", fromPointer);
    layStrip(video);
    moveTo(video, 0);
    return video;
  };
  const layStrip = (video) => {
    const {shown, owner} = video, strip = owner.querySelector(".strip");
    strip.replaceChildren();
    const width = strip.clientWidth, height = strip.clientHeight, sheet = data.sheets[shown.sheet];
    const place = (time) => (time - video.first) / (video.last - video.first) * width;
    // Where rows have no frame there is no picture: the slots beside them end there.
    const gaps = shown.none.map(([from, to]) => ({from: from === null ? video.first : from, to: to === null ? video.last : to}));
    const slot = (from, to) => ({left: place(from), across: place(to) - place(from)});
    video.slots = gaps.map(({from, to}) => slot(from, to));
    for (const {left, across} of video.slots) strip.append(make("span", {class: "gone", style: {left: left + "px", width: across + "px"}}));
    if (!sheet || !shown.cellTime.length) {
      strip.append(make("p", {text: "No thumbnails were kept for this video."}));
      video.slots = [];
      return;
    }
    const natural = sheet.w * height / sheet.h;
    // Each picture stands at its time; so many are left out that those which stay can be recognised.
    const room = width / shown.cellTime.length, every = Math.max(1, Math.ceil(Math.min(natural, narrow() ? 40 : 48) / room));
    const kept = shown.cellTime.map((_, number) => number).filter((number) => number % every === 0);
    kept.forEach((chosen, number) => {
      const time = shown.cellTime[chosen];
      const before = number ? (shown.cellTime[kept[number - 1]] + time) / 2 : video.first;
      const after = number + 1 < kept.length ? (shown.cellTime[kept[number + 1]] + time) / 2 : video.last;
      const {left, across} = slot(
        Math.max(before, ...gaps.filter((gap) => gap.to <= time).map((gap) => gap.to)),
        Math.min(after, ...gaps.filter((gap) => gap.from >= time).map((gap) => gap.from)));
      const shape = picture(shown.sheet, shown.cell[chosen], height, Math.max(1, across - 1));
      shape.style.left = left + (across - parseFloat(shape.style.width)) / 2 + "px";
      strip.append(shape);
      video.slots.push({left, across});
    });
    for (const time of shown.cuts) strip.append(make("span", {class: "cut", style: {left: place(time - (shown.time.length > 1 ? (video.last - video.first) / shown.time.length / 2 : 0)) + "px"}}));
    video.frame = make("span", {class: "now", hidden: ""});
    strip.append(video.frame);
  };
  const pictureAt = (video, time, height) => {
    const {shown} = video;
    if (!shown.cellTime.length) return null;
    const cell = nearest(shown.cellTime, time);
    return {element: picture(shown.sheet, shown.cell[cell], height, 0, `frame at ${clock(shown.cellTime[cell])}`), exact: Math.abs(shown.cellTime[cell] - time) < 1e-6, time: shown.cellTime[cell]};
  };
  const moveTo = (video, place) => {
    const {shown, owner} = video;
    if (!shown.time.length) return;
    video.at = place;
    const time = shown.time[place], slider = owner.querySelector("[data-role=row]");
    slider.value = place;
    const isCut = shown.cuts.includes(time), change = shown.change[place], offset = shown.offset[place];
    const words = `row ${shown.row[place]} at ${clock(time)}`;
    slider.setAttribute("aria-valuetext", `${words}, ${STATUS[shown.status[place]]}${isCut ? ", likely cut" : ""}`);
    const seen = pictureAt(video, time, 84), readout = owner.querySelector("[data-role=readout]");
    const line = (text, kind) => make("p", {text, class: kind || null});
    readout.replaceChildren(...[
      seen && shown.status[place] !== "b" ? seen.element : null,
      make("div", {}, line(`Row ${shown.row[place]} · ${clock(time)}${shown.status[place] === "o" ? "" : " · " + STATUS[shown.status[place]]}`),
        line([
          shown.native[place] >= 0 ? `frame ${shown.native[place]} of the file` : "no frame of the file",
          offset === null ? null : `${offset > 0 ? "+" : ""}${offset} ms from its time`,
          change === null ? null : `change ${change.toFixed(3)}${isCut ? ", a likely cut" : ""}`,
        ].filter(Boolean).join(" · "), "sub"),
        seen && !seen.exact && shown.status[place] !== "b" ? line(`picture: nearest kept, ${clock(seen.time)}`, "sub") : null),
    ].filter(Boolean));
    placeCursors(video, time, null);
  };
  const placeCursors = (video, time, other) => {
    const {owner, shown} = video, m = margins();
    const line = owner.querySelector(".along .over"), fraction = (time - video.first) / (video.last - video.first);
    const cursor = line.querySelector(".cursor");
    cursor.hidden = false;
    Object.assign(cursor.style, {left: m.l + fraction * (line.clientWidth - m.l - m.r) + "px", top: m.t + "px", height: line.clientHeight - m.t - m.b + "px"});
    if (video.frame && video.slots) {
      const x = fraction * owner.querySelector(".strip").clientWidth;
      const chosen = video.slots.find((one) => one.left <= x && x <= one.left + one.across);
      video.frame.hidden = !chosen;
      if (chosen) Object.assign(video.frame.style, {left: chosen.left + "px", width: chosen.across + "px"});
    }
    const box = matrixBox(owner);
    if (!box) return;
    const [upright, flat] = owner.querySelectorAll(".beside .cursor");
    const at = (value) => shown.sideTime.length ? (nearest(shown.sideTime, value) + 0.5) / shown.side : 0;
    upright.hidden = flat.hidden = false;
    Object.assign(upright.style, {left: box.left + at(time) * box.width + "px", top: box.top + "px", height: box.height + "px"});
    Object.assign(flat.style, {left: box.left + "px", width: box.width + "px", top: box.top + at(other === null ? time : other) * box.height + "px"});
  };
  const matrixBox = (owner) => {
    const node = owner.querySelector("[data-chart=matrix]"), full = node && node._fullLayout;
    return full && full.xaxis ? {left: full._size.l, top: full._size.t, width: full._size.w, height: full._size.h} : null;
  };

  painters.line = (node) => {
    const video = videoOf(node), {shown} = video;
    layStrip(video);
    const cuts = shown.time.map((time, place) => shown.cuts.includes(time) ? place : -1).filter((place) => place >= 0);
    const pick = (letter) => shown.time.map((_, place) => place).filter((place) => shown.status[place] === letter);
    const marks = (letter, name, colour, symbol, size) => {
      const places = pick(letter);
      return {x: places.map((place) => shown.time[place]), y: places.map((place) => letter === "b" ? 0 : shown.offset[place]), customdata: places, name, yaxis: "y2",
        mode: "markers", marker: {color: colour, symbol, size, line: {width: letter === "b" ? 2 : 0, color: colour}}, hoverinfo: "none"};
    };
    const top = Math.max(...shown.change.filter((value) => value !== null), shown.threshold || 0, 0.01) * 1.12;
    const known = shown.offset.filter((value) => value !== null).map(Math.abs), reach = Math.max(...known, 1) * 1.25;
    return Plotly.react(node, [
      {x: shown.time, y: shown.change, mode: shown.time.length < 60 ? "lines+markers" : "lines", name: "change", line: {color: css("--mark"), width: 1.8}, marker: {size: 4},
        hoverinfo: "none", customdata: shown.time.map((_, place) => place), connectgaps: false},
      {x: shown.time.slice(1), y: shown.change.slice(1).map((value) => value === null ? 0 : value), mode: "none", fill: "tozeroy", fillcolor: css("--mark") + "22", hoverinfo: "skip"},
      {x: cuts.map((place) => shown.time[place]), y: cuts.map((place) => shown.change[place]), mode: "markers", name: "likely cut", customdata: cuts, hoverinfo: "none",
        marker: {symbol: "triangle-down", size: 11, color: css("--mark2")}},
      marks("o", "ok", css("--mark"), "circle", shown.time.length > 150 ? 3 : 5),
      marks("c", "clamped", css("--mark3"), "diamond", 10),
      marks("b", "bad", css("--mark2"), "x-thin", 8),
    ], layout({
      margin: margins(), hovermode: "x", hoverdistance: -1,
      xaxis: {range: [video.first, video.last], anchor: "y2", title: shown.thinned ? "seconds of the video (thinned; every cut and odd row is kept)" : "seconds of the video", nticks: narrow() ? 5 : 10},
      yaxis: {domain: [0.42, 1], range: [0, top], title: "change", nticks: 4},
      yaxis2: {domain: [0, 0.3], range: [-reach, reach], title: "ms off", nticks: 3, zerolinecolor: css("--line")},
      shapes: shown.threshold === null ? [] : [{type: "line", xref: "paper", x0: 0, x1: 1, y0: shown.threshold, y1: shown.threshold, line: {color: css("--soft"), width: 1, dash: "dash"}}],
    }), CONFIG).then(() => {
      if (!node.dataset.heard && node.on) {
        node.dataset.heard = "yes";
        const follow = (event) => moveTo(video, event.points[0].customdata);
        node.on("plotly_hover", follow);
        node.on("plotly_click", follow);
      }
      moveTo(video, video.at);
    });
  };

  painters.matrix = (node) => {
    const video = videoOf(node), {shown, bytes} = video, side = shown.side;
    const z = [];
    for (let line = 0; line < side; line += 1) z.push(Array.from(bytes.subarray(line * side, (line + 1) * side), (value) => value === 255 ? null : shown.lowest + (1 - shown.lowest) * value / 254));
    const ticks = [...new Set([0, 1, 2, 3, 4].map((part) => Math.round(part * (side - 1) / 4)))];
    const axis = {tickvals: ticks, ticktext: ticks.map((place) => shown.sideTime[place].toFixed(shown.last > 30 ? 0 : 1)), showgrid: false, zeroline: false, range: [-0.5, side - 0.5], ticks: "outside", ticklen: 3, tickcolor: css("--line")};
    return Plotly.react(node, [{
      type: "heatmap", z, zmin: shown.lowest, zmax: 1, colorscale: "Viridis", hoverinfo: "none", zsmooth: false,
      colorbar: {orientation: "h", thickness: 8, len: 1, y: -0.13, yanchor: "top", outlinewidth: 0, tickfont: {size: 11, color: css("--soft")}, nticks: 5, title: {text: "cosine of two rows (axes: seconds)", side: "bottom", font: {size: 12, color: css("--soft")}}},
    }], layout({margin: {l: 38, r: 8, t: 6, b: 84}, xaxis: {...axis}, yaxis: {...axis, range: [side - 0.5, -0.5]}, plot_bgcolor: css("--none")}), CONFIG).then(async () => {
      // Square: the plot's height follows its width.
      for (let turn = 0; turn < 3; turn += 1) {
        const {w, h} = node._fullLayout._size;
        if (Math.abs(w - h) <= 2) break;
        node.style.height = node.clientHeight + w - h + "px";
        await Plotly.Plots.resize(node);
      }
      if (!node.dataset.heard) {
        node.dataset.heard = "yes";
        const follow = (event) => comparePair(video, event.points[0].x, event.points[0].y, event.points[0].z);
        node.on("plotly_hover", follow);
        node.on("plotly_click", follow);
      }
      moveTo(video, video.at);
    });
  };
  const comparePair = (video, across, down, value) => {
    const {shown, owner} = video;
    const times = [shown.sideTime[across], shown.sideTime[down]];
    moveTo(video, nearest(shown.time, times[0]));
    placeCursors(video, times[0], times[1]);
    const pictures = [across, down].filter((place) => shown.sideStatus[place] !== "b")
      .map((place) => pictureAt(video, shown.sideTime[place], 50)).filter(Boolean).map((seen) => seen.element);
    owner.querySelector("[data-role=pair]").replaceChildren(...pictures, make("span", {
      text: `${clock(times[0])} and ${clock(times[1])}: ` + (value === null || value === undefined ? "no frame" : `cosine ${value.toFixed(3)}`),
    }));
  };
  const miniatures = (owner) => {
    const shown = backboneOf(owner).details[owner.dataset.video], mini = owner.querySelector(".mini");
    if (mini.childElementCount || !data.sheets[shown.sheet]) return;
    const count = shown.cellTime.length;
    for (let number = 0; number < Math.min(5, count); number += 1) {
      mini.append(picture(shown.sheet, shown.cell[Math.round(number * (count - 1) / Math.max(1, Math.min(5, count) - 1))], 34, 52));
    }
  };

  // --- the map
  const maps = {};
  const look = (number) => ({colour: COLOURS[number % COLOURS.length], symbol: SYMBOLS[Math.floor(number / COLOURS.length) % SYMBOLS.length]});
  const mapOf = (node) => {
    const owner = node.closest("[data-map]"), number = owner.dataset.map;
    if (maps[number]) return maps[number];
    const map = {owner, shown: data.backbones[number].map, number, colour: "video", only: -1, chosen: -1};
    maps[number] = map;
    const only = owner.querySelector("[data-role=only]");
    map.shown.videos.forEach((id, place) => only.append(make("option", {value: place, text: id})));
    only.addEventListener("change", () => { map.only = only.value === "" ? -1 : Number(only.value); draw(node); });
    owner.querySelector("[data-role=colour]").addEventListener("change", (event) => { map.colour = event.target.value; draw(node); });
    owner.querySelector("[data-role=step]").addEventListener("input", (event) => choose(map, Number(event.target.value)));
    return map;
  };
  const pointWords = (map, point) => `${map.shown.videos[map.shown.video[point]]}, ${clock(map.shown.time[point])}`;
  const cellOf = (map, point, height, width) => picture(...map.shown.cell[point], height, width, `frame of ${pointWords(map, point)}`);
  painters.map = (node) => {
    const map = mapOf(node), {shown} = map;
    const dim = (point) => map.only >= 0 && shown.video[point] !== map.only;
    const byTime = map.colour === "time";
    const marker = {
      size: shown.x.length > 700 ? 7 : 9, opacity: shown.video.map((_, point) => dim(point) ? 0.12 : 0.85),
      symbol: shown.video.map((video) => byTime ? "circle" : look(video).symbol),
      color: byTime ? shown.span : shown.video.map((video) => look(video).colour),
      line: {width: 0.6, color: css("--card")},
    };
    if (byTime) Object.assign(marker, {colorscale: "Viridis", cmin: 0, cmax: 1, showscale: true,
      colorbar: {orientation: "h", thickness: 8, len: 0.5, x: 1, xanchor: "right", y: 1, yanchor: "bottom", tickvals: [0, 1], ticktext: ["start", "end"], outlinewidth: 0, tickfont: {size: 11, color: css("--soft")}}});
    const around = map.chosen < 0 ? [] : [...shown.inside[map.chosen], ...shown.outside[map.chosen]].map(([other]) => other);
    const rings = [...around, ...(map.chosen < 0 ? [] : [map.chosen])];
    return Plotly.react(node, [
      {type: "scatter", mode: "markers", x: shown.x, y: shown.y, marker, hoverinfo: "none"},
      {type: "scatter", mode: "markers", x: rings.map((point) => shown.x[point]), y: rings.map((point) => shown.y[point]), hoverinfo: "skip",
        marker: {symbol: "circle-open", size: rings.map((point) => point === map.chosen ? 20 : 14), color: css("--ink"), line: {width: rings.map((point) => point === map.chosen ? 3 : 1.5)}}},
    ], layout({
      margin: {l: 44, r: 10, t: byTime ? 34 : 10, b: 40}, dragmode: narrow() ? false : "pan", hoverdistance: 14,
      xaxis: {title: `first axis (${Math.round(100 * shown.explained[0])} %)`, fixedrange: narrow(), zeroline: false, nticks: 7},
      yaxis: {title: `second axis (${Math.round(100 * shown.explained[1])} %)`, fixedrange: narrow(), zeroline: false, nticks: 7},
      uirevision: "kept",
    }), {...CONFIG, scrollZoom: false}).then(() => {
      legend(map, node);
      if (node.dataset.heard) return null;
      node.dataset.heard = "yes";
      node.on("plotly_hover", (event) => showTip(map, event.points[0].pointNumber, event.event));
      node.on("plotly_unhover", () => { tip.hidden = true; });
      node.on("plotly_click", (event) => choose(map, event.points[0].pointNumber));
      // A first frame is chosen, so that the pictures are there before anything is pressed.
      return shown.x.length && map.chosen < 0 ? choose(map, 0) : null;
    });
  };
  const legend = (map, node) => {
    const list = map.owner.querySelector("[data-role=legend]");
    list.hidden = map.colour === "time";
    list.replaceChildren();
    const most = 49;
    map.shown.videos.slice(0, most).forEach((id, place) => {
      const {colour, symbol} = look(place);
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      for (const [name, value] of Object.entries({width: 12, height: 12, viewBox: "-6 -6 12 12", "aria-hidden": "true"})) svg.setAttribute(name, value);
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", {
        circle: "M5 0A5 5 0 1 1 -5 0A5 5 0 1 1 5 0Z", square: "M-4.5-4.5h9v9h-9Z", diamond: "M0-6L6 0L0 6L-6 0Z", "triangle-up": "M0-5L5.5 4.5H-5.5Z",
        cross: "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4Z", star: "M0-6L1.5-2L6-1.9L2.4.8L3.7 5L0 2.5L-3.7 5L-2.4.8L-6-1.9L-1.5-2Z", hexagon: "M-5-3L0-6L5-3V3L0 6L-5 3Z",
      }[symbol]);
      path.setAttribute("fill", colour);
      svg.append(path);
      const button = make("button", {type: "button", "aria-pressed": String(map.only === place), title: id}, svg, make("span", {text: id}));
      button.addEventListener("click", () => {
        map.only = map.only === place ? -1 : place;
        map.owner.querySelector("[data-role=only]").value = map.only < 0 ? "" : map.only;
        draw(node);
      });
      list.append(make("li", {}, button));
    });
    if (map.shown.videos.length > most) list.append(make("li", {class: "hint", text: `marks repeat from here on: ${map.shown.videos.length - most} more videos`}));
  };
  const showTip = (map, point, event) => {
    const image = cellOf(map, point, 108);
    tip.replaceChildren(...(image ? [image] : []), make("p", {text: map.shown.videos[map.shown.video[point]]}),
      make("p", {class: "sub", text: `row ${map.shown.row[point]} · ${clock(map.shown.time[point])}`}));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = event.clientX + 18 + box.width > window.innerWidth ? Math.max(4, event.clientX - box.width - 18) : event.clientX + 18;
    Object.assign(tip.style, {left: left + "px", top: Math.max(4, Math.min(event.clientY - 20, window.innerHeight - box.height - 6)) + "px"});
  };
  const choose = (map, point) => {
    const {shown, owner} = map;
    map.chosen = point;
    owner.querySelector("[data-role=step]").value = point;
    owner.querySelector("[data-role=step]").setAttribute("aria-valuetext", pointWords(map, point));
    const list = (title, pairs, empty) => [make("h4", {text: title}), pairs.length ? make("div", {class: "near"}, ...pairs.map(([other, cosine]) => {
      const button = make("button", {type: "button", "aria-label": `${pointWords(map, other)}, cosine ${cosine}`}, cellOf(map, other, 58, 86),
        make("p", {text: shown.videos[shown.video[other]]}), make("p", {class: "sub", text: `${clock(shown.time[other])} · ${cosine.toFixed(3)}`}));
      button.addEventListener("click", () => choose(map, other));
      return button;
    })) : make("p", {class: "sub", text: empty})];
    const detail = shown.detail[shown.video[point]];
    const words = make("div", {}, make("p", {class: "id", text: shown.videos[shown.video[point]]}), make("p", {class: "sub", text: `row ${shown.row[point]} · ${clock(shown.time[point])}`}));
    if (detail >= 0) words.append(make("a", {href: `#v-${map.number}-${detail}`, text: "to this video"}));
    owner.querySelector("[data-role=panel]").replaceChildren(make("div", {class: "chosen"}, cellOf(map, point, 104, 190), words),
      ...list("Nearest in other videos", shown.outside[point], "There is no other video."), ...list("Nearest in this video", shown.inside[point], "No other frame of it is on the map."));
    tip.hidden = true;
    return draw(owner.querySelector("[data-chart=map]"));
  };

  // --- the table
  for (const table of document.querySelectorAll("table.all")) {
    const body = table.tBodies[0], lines = [...body.rows], block = table.closest("[data-backbone]");
    const filter = block.querySelector("[data-role=filter]"), found = block.querySelector("[data-role=found]");
    filter.addEventListener("input", () => {
      const wanted = filter.value.toLowerCase();
      let count = 0;
      for (const line of lines) { line.hidden = !line.textContent.toLowerCase().includes(wanted); count += line.hidden ? 0 : 1; }
      found.textContent = wanted ? `${count} of ${lines.length}` : "";
    });
    [...table.tHead.rows[0].cells].forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const numeric = head.classList.contains("n") || head.classList.contains("numeric");
      const up = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && !numeric);
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (line) => line.cells[column].dataset.key ?? line.cells[column].textContent;
      const compare = numeric ? (a, b) => parseFloat(key(a)) - parseFloat(key(b)) : (a, b) => key(a).localeCompare(key(b), undefined, {numeric: true});
      // What is not known comes last, whichever way is up.
      const known = (line) => key(line) !== "";
      body.append(...[...lines].sort((a, b) => known(a) && known(b) ? (up ? 1 : -1) * compare(a, b) : known(b) - known(a)));
    }));
  }

  // --- the line that loads the features
  for (const button of document.querySelectorAll("[data-copy]")) {
    const line = document.getElementById(button.dataset.copy);
    button.addEventListener("click", async () => {
      // Selected as well, for browsers that give a page out of a file no clipboard.
      getSelection().selectAllChildren(line);
      try {
        await navigator.clipboard.writeText(line.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  // --- themes, backbones, links
  const toggle = document.getElementById("theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const named = () => { document.getElementById("theme-word").textContent = dark() ? "Light" : "Dark"; toggle.setAttribute("aria-pressed", String(dark())); };
  toggle.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; named(); redraw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { named(); redraw(); });
  named();
  for (const button of document.querySelectorAll("[data-choose]")) {
    button.addEventListener("click", () => {
      for (const other of document.querySelectorAll("[data-choose]")) other.setAttribute("aria-pressed", String(other === button));
      for (const block of document.querySelectorAll("[data-backbone]")) block.hidden = block.dataset.backbone !== button.dataset.choose;
      for (const owner of document.querySelectorAll("details.video:not([open])")) miniatures(owner);
    });
  }
  const follow = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView({block: "start"}); }
  };
  addEventListener("hashchange", follow);
  document.addEventListener("click", (event) => { if (event.target.closest("a[href^='#v-']")) setTimeout(follow, 0); });
  // A chart follows the size of its place: the window's, or that of an unfolded video.
  const widths = new Map();
  const sized = new ResizeObserver((entries) => {
    for (const {target, contentRect} of entries) {
      const before = widths.get(target);
      widths.set(target, contentRect.width);
      if (before && contentRect.width && Math.abs(before - contentRect.width) > 1 && target.dataset.drawn) draw(target);
    }
  });
  for (const node of charts) sized.observe(node);

  for (const node of charts) watcher.observe(node);
  const folded = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { folded.unobserve(entry.target); miniatures(entry.target); }
  }, {rootMargin: "300px"});
  for (const owner of document.querySelectorAll("details.video")) folded.observe(owner);
  follow();

  // For tests, and for printing: everything drawn now.
  state.drawAll = async () => {
    const closed = [...document.querySelectorAll("details.video:not([open])")];
    for (const owner of closed) owner.open = true;
    await Promise.all(charts.filter((node) => node.clientWidth).map(draw));
    return charts.filter((node) => node.clientWidth).length;
  };
  addEventListener("beforeprint", () => { state.drawAll(); });
  window.framefeat = state;
})();

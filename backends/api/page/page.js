// The models page: what there is, switching, downloading, comparing, trying.
//
// Rule: everything that a server says is shown as text, never as HTML. It asks only the manager
// that it came from, with the token from the address, which it takes out of the address at once.

const EVERY_MS = 1500; // between two looks, while the page is seen
const FREE = ["apache-2.0", "mit"];
const ENDED = ["done", "failed", "cancelled"];
const SUITS = { yes: "✓ suits", tight: "~ fits, slowly", no: "✗ too large" };

const $ = (id) => document.getElementById(id);

function token() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token") ?? "";
}

const secret = token();

async function call(path, body) {
  const options = { headers: { Authorization: `Bearer ${secret}` }, cache: "no-store" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The backend manager is not there any more. Open this page again: midspan ui");
  }
  const value = await answer.json();
  if (answer.status === 401) {
    throw new Error("This page has no valid token. Open it with: midspan ui");
  }
  if (!answer.ok) {
    throw new Error(value.error?.message ?? `The manager answered with ${answer.status}.`);
  }
  return value;
}

function say(message) {
  if ($("message").textContent !== message) {
    $("message").textContent = message;
  }
}

/** Run what a button asks for; what goes wrong is said, and the lists are brought up to date. */
async function act(what) {
  say("");
  try {
    await what();
    await look();
  } catch (error) {
    say(error.message);
  }
}

function size(bytes) {
  if (!bytes) return "";
  const gib = bytes / 2 ** 30;
  return gib >= 1 ? `${gib.toFixed(1)} GiB` : `${Math.round(bytes / 2 ** 20)} MiB`;
}

function billions(row) {
  return row.parameters ? `${Number(row.parameters.toPrecision(3))}B` : "";
}

function abilities(row) {
  if (row.fim === null) return "known once it is connected";
  const can = [row.fim && "completes", row.chat && "chats"].filter(Boolean);
  return can.join(", ") || row.no_fim_reason || "nothing";
}

function button(text, label, pressed) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", pressed);
  return made;
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A table whose rows stay the same elements while they are shown, so that the focus stays too. */
class Rows {
  constructor(id, columns, make) {
    this.body = $(id).tBodies[0];
    this.columns = columns; // row → text, one for each cell between the tick and the actions
    this.make = make; // (name, cell) → update(row)
    this.shown = new Map();
  }

  update(rows) {
    const names = new Set(rows.map((row) => row.name));
    for (const [name, one] of this.shown) {
      if (!names.has(name)) {
        one.element.remove();
        this.shown.delete(name);
      }
    }
    for (const row of rows) {
      const one = this.shown.get(row.name) ?? this.add(row.name);
      this.columns.forEach((text, index) => write(one.cells[index], text(row)));
      one.update(row);
    }
  }

  add(name) {
    const element = this.body.insertRow();
    const tick = document.createElement("input");
    tick.type = "checkbox";
    tick.checked = ticked.has(name);
    tick.setAttribute("aria-label", `Compare ${name}`);
    tick.addEventListener("change", () => {
      ticked[tick.checked ? "add" : "delete"](name);
      act(compare);
    });
    element.insertCell().append(tick);
    const cells = this.columns.map(() => element.insertCell());
    const one = { element, cells, update: this.make(name, element.insertCell()) };
    this.shown.set(name, one);
    return one;
  }
}

const ticked = new Set();
const known = { own: [], offers: [], downloads: [], current: "" };

const own = new Rows(
  "own",
  [
    (row) => (row.name === known.current ? `★ ${row.name}` : row.name),
    (row) => (row.problem ? row.problem : row.reason ? `${row.state}: ${row.reason}` : row.state),
    (row) => [size(row.size_bytes), row.quantisation].filter(Boolean).join(", "),
    (row) => [row.engine, row.endpoint].filter(Boolean).join(" at "),
    abilities,
  ],
  (name, cell) => {
    const use = button("Use", `Use ${name}`, () =>
      act(async () => {
        write($("now"), `Loading ${name} …`);
        await call("/api/models/select", { name });
      }),
    );
    const remove = button("Delete", `Delete ${name}`, () => {
      if (confirm(`Delete ${name} and its files?`)) {
        act(() => call("/api/models/delete", { name }));
      }
    });
    cell.append(use, remove);
    return (row) => {
      use.disabled = row.name === known.current || row.fim === false || Boolean(row.problem);
      remove.hidden = row.source !== "downloaded";
    };
  },
);

const offers = new Rows(
  "offers",
  [
    (row) => (row.note ? `${row.name} (${row.note})` : row.name),
    billions,
    (row) => `about ${size(row.size_bytes)} in ${row.quantisation}`,
    (row) => row.licence,
    (row) => `${SUITS[row.fits]}${row.recommended ? ", recommended" : ""}`,
  ],
  (name, cell) => {
    const get = button("Download", `Download ${name}`, () =>
      act(() => call("/api/models/download", { model: name })),
    );
    const stop = button("Stop", `Stop downloading ${name}`, () =>
      act(() => call("/api/models/download/cancel", { name })),
    );
    const bar = document.createElement("progress");
    bar.setAttribute("aria-label", `Download of ${name}`);
    const said = document.createElement("small");
    cell.append(get, stop, bar, said);
    return (row) => {
      const download = known.downloads.find((one) => one.name === name);
      const going = Boolean(download) && !ENDED.includes(download.state);
      get.hidden = going || row.downloaded;
      stop.hidden = bar.hidden = !going;
      if (going && download.total_bytes) {
        bar.max = download.total_bytes;
        bar.value = download.received_bytes;
      } else {
        bar.removeAttribute("value");
      }
      write(said, row.downloaded ? "downloaded" : download ? progress(download) : "");
    };
  },
);

function progress(download) {
  if (ENDED.includes(download.state)) return download.reason || download.state;
  if (!download.total_bytes) return download.state;
  const part = Math.floor((100 * download.received_bytes) / download.total_bytes);
  const left = download.eta_s === null ? "" : `, ${Math.ceil(download.eta_s)} s left`;
  return `${download.state}: ${part} % of ${size(download.total_bytes)}${left}`;
}

function wanted() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const passes = {
    all: () => true,
    fits: (row) => row.fits === "yes",
    fim: (row) => row.fim,
    chat: (row) => row.chat,
    free: (row) => FREE.includes(row.licence),
  }[$("filter").value];
  return known.offers.filter((row) => {
    const text = [row.name, row.repository, row.family, row.licence].join(" ").toLowerCase();
    return passes(row) && words.every((word) => text.includes(word));
  });
}

function show() {
  own.update(known.own);
  const rows = wanted();
  // Rows are kept as elements, so those that come back would stand last: begin anew then.
  if (rows.some((row) => !offers.shown.has(row.name))) offers.update([]);
  offers.update(rows);
  write($("found"), `${rows.length} of ${known.offers.length}`);
}

const FACTS = [
  ["Parameters", billions],
  ["Size", (row) => size(row.size_bytes)],
  ["Memory", (row) => size(row.memory_bytes)],
  ["Quantisation", (row) => row.quantisation],
  ["Context", (row) => (row.context_length ? `${row.context_length} tokens` : "")],
  ["Family", (row) => row.family],
  ["Engine", (row) => row.engine],
  ["Licence", (row) => row.licence],
  ["Can", abilities],
  ["On this machine", (row) => (row.here ? row.state : `${SUITS[row.fits]}: ${row.why}`)],
];

let compared = 0; // how often it was asked: an answer that is overtaken is dropped

async function compare() {
  const asked = ++compared;
  const names = [...ticked].map((name) => `name=${encodeURIComponent(name)}`).join("&");
  const { models } = names ? await call(`/api/models/compare?${names}`) : { models: [] };
  if (asked !== compared) return;
  const table = $("compare");
  table.hidden = models.length === 0;
  $("compare-hint").hidden = models.length > 0;
  const head = table.createTHead();
  const titles = ["", ...models.map((row) => row.name)];
  head.replaceChildren();
  head.insertRow().append(...titles.map((title) => heading(title, "col")));
  for (const body of [...table.tBodies]) body.remove();
  const body = table.createTBody();
  for (const [name, text] of FACTS) {
    const line = body.insertRow();
    line.append(heading(name, "row"));
    for (const row of models) line.insertCell().textContent = text(row) || "–";
  }
}

function heading(text, scope) {
  const made = document.createElement("th");
  made.scope = scope;
  made.textContent = text;
  return made;
}

async function lookAtOffers() {
  const { models, recommended, machine } = await call("/api/models/catalogue");
  known.offers = models.map((row) => ({ ...row, recommended: row.name === recommended }));
  write($("machine"), `${machine.processor}, ${machine.cores} cores, ${machine.device}; ` +
    `${size(machine.free_bytes)} for a model.`);
}

async function look() {
  const [available, status, downloads] = await Promise.all([
    call("/api/models/available"),
    call("/api/models/status"),
    call("/api/models/downloads"),
  ]);
  const states = new Map(status.models.map((row) => [row.name, row]));
  known.own = available.models.map((row) => ({ ...row, ...pick(states.get(row.name)) }));
  known.current = available.current;
  const finished = downloads.downloads.filter((row) => row.state === "done").length;
  const before = known.downloads.filter((row) => row.state === "done").length;
  known.downloads = downloads.downloads;
  if (!known.offers.length || finished !== before) await lookAtOffers();
  const now = states.get(status.serving);
  const going = status.in_flight ? `, ${status.in_flight} requests under way` : "";
  write($("now"), `${status.serving} is ${now ? now.state : "in use"}${going}; ` +
    `${size(status.memory.taken) || "nothing"} in memory`);
  show();
}

function pick(state) {
  if (!state) return {};
  return { state: state.state, reason: state.reason, memory_bytes: state.memory_bytes };
}

async function complete(event) {
  event.preventDefault();
  say("");
  write($("answer"), "…");
  try {
    const answer = await call("/infill", {
      input_prefix: $("before").value,
      input_suffix: $("after").value,
      n_predict: 64,
      document: "page",
    });
    const { usage, timings, content } = answer;
    const ms = Math.round(timings.prompt_ms + timings.predicted_ms);
    write($("answer"), `${content || "(nothing to suggest)"}\n\n${usage.completion_tokens} tokens ` +
      `in ${ms} ms, ${usage.cached_tokens} of ${usage.prompt_tokens} prompt tokens cached`);
  } catch (error) {
    write($("answer"), "");
    say(error.message);
  }
}

async function watch() {
  let failed = false;
  for (;;) {
    if (!document.hidden) {
      try {
        await look();
        if (failed) say("");
        failed = false;
      } catch (error) {
        failed = true;
        write($("now"), "Not connected");
        say(error.message);
      }
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

$("search").addEventListener("input", show);
$("filter").addEventListener("change", show);
$("try").addEventListener("submit", complete);
watch();

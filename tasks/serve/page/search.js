"use strict";
// The page's behavior. Names from the gallery are only ever set as text, never as HTML.
(() => {
  const byId = (id) => document.getElementById(id);
  const hits = byId("hits"), more = byId("more"), summary = byId("summary"), message = byId("message"), asked = byId("query");
  const classes = byId("class"), ids = byId("id"), drop = byId("drop"), file = byId("file");
  const uploads = document.body.dataset.uploads === "yes", maxBytes = Number(document.body.dataset.maxBytes);
  const PAGE = 24;

  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }
  const count = (n, what) => `${n.toLocaleString("en-US")} ${what}${n === 1 ? "" : "s"}`;

  // ---- colors
  const root = document.documentElement;
  let stored = null;
  try { stored = localStorage.getItem("theme"); } catch { /* a browser without storage */ }
  root.dataset.theme = stored ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* not kept */ }
  });

  // ---- requests
  async function ask(path, parameters, options = {}) {
    const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value != null));
    let response;
    try {
      response = await fetch(`${path}?${query}`, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer; is it still running?");
    }
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) {
      throw Object.assign(new Error(answer.detail ?? `The server answered ${response.status}.`), { status: response.status });
    }
    return answer;
  }
  function say(text) {
    message.textContent = text;
    message.hidden = !text;
  }

  // ---- images
  function picture(row, size) {
    const none = () => element("span", { className: "picture none", title: "no image" });
    const made = element("img", { className: "picture", alt: "", src: `thumbnails/${row}`, loading: "lazy", width: size, height: size });
    made.addEventListener("error", () => made.replaceWith(none()));
    return made;
  }
  function card(image) {
    const lines = [picture(image.row, 136), element("span", { className: "name", textContent: image.id })];
    if (image.class !== null) lines.push(element("small", { className: "class", textContent: image.class }));
    if (image.similarity !== undefined) {
      lines.push(element("small", { className: "similarity", textContent: image.similarity.toFixed(4) }));
    }
    const made = element("button", { type: "button", className: "card", title: `Search from ${image.id}` }, ...lines);
    made.dataset.row = image.row;
    made.addEventListener("click", () => go({ row: image.row }));
    return made;
  }

  // ---- what is shown: {} browses, {row}, {id} or {upload, name, url} searches
  let shown = {}, offset = 0, total = 0, running = null;

  // A search from the gallery has an address, so that it can be linked and the back button works.
  function go(query, replace = false) {
    const name = classes?.value ?? "";
    const state = { row: query.row ?? null, id: query.id ?? null, class: name };
    const address = new URLSearchParams(Object.entries(state).filter(([, value]) => value !== null && value !== ""));
    if (!query.upload && !query.file) {
      history[replace ? "replaceState" : "pushState"](null, "", `#${address}`);
    }
    show(query);
  }
  function fromAddress() {
    const address = new URLSearchParams(location.hash.slice(1));
    if (classes) classes.value = address.get("class") ?? "";
    if (classes && classes.selectedIndex < 0) classes.value = "";
    const row = address.get("row"), id = address.get("id");
    show(row !== null ? { row } : id !== null ? { id } : {});
  }

  async function load(query, start, signal) {
    const parameters = { k: PAGE, offset: start, class: classes?.value ?? "" };
    if (query.file && !query.upload) return upload(query, parameters, signal);
    if (query.upload) {
      try {
        return await ask("search", { ...parameters, upload: query.upload }, { signal });
      } catch (error) {
        if (error.status !== 404) throw error;
        return upload(query, parameters, signal); // the server has been restarted, or has had many others since
      }
    }
    if ((query.row !== undefined || query.id !== undefined) && query.contains === undefined) {
      try {
        return await ask("search", { ...parameters, row: query.row, id: query.id }, { signal });
      } catch (error) {
        if (error.status !== 404 || query.id === undefined) throw error;
        const listed = await list({ ...parameters, contains: query.id }, signal);
        if (!listed.hits.length) throw error;
        query.contains = query.id; // a part of ids: more results are of the list
        return listed;
      }
    }
    return list({ ...parameters, contains: query.contains ?? "" }, signal);
  }
  async function list(parameters, signal) {
    const answer = await ask("gallery/images", parameters, { signal });
    return { ...answer, hits: answer.images, query: {} };
  }
  async function upload(query, parameters, signal) {
    const body = new FormData();
    body.append("image", query.file, query.file.name || "image");
    const answer = await ask("search", parameters, { method: "POST", body, signal });
    query.upload = answer.query.upload;
    return answer;
  }

  async function show(query) {
    running?.abort();
    const mine = running = new AbortController();
    if (shown.url && shown !== query) URL.revokeObjectURL(shown.url);
    shown = query;
    say("");
    document.body.classList.add("busy");
    try {
      const answer = await load(query, 0, mine.signal);
      if (mine !== running) return;
      hits.replaceChildren(...answer.hits.map(card));
      offset = answer.hits.length;
      total = answer.total ?? 0;
      more.hidden = !answer.more;
      showQuery(query, answer);
      describe(answer);
    } catch (error) {
      if (error.name === "AbortError" || mine !== running) return;
      hits.replaceChildren();
      more.hidden = true;
      asked.hidden = true;
      summary.textContent = "";
      say(error.message);
    } finally {
      if (mine === running) {
        running = null;
        document.body.classList.remove("busy");
        fill();
      }
    }
  }
  function showQuery(query, answer) {
    const searched = query.file || answer.query.id !== undefined && answer.query.id !== null;
    asked.hidden = !searched;
    if (!searched) return asked.replaceChildren();
    const image = query.file ? element("img", { alt: "", src: query.url }) : picture(answer.query.row, 96);
    image.addEventListener("error", () => image.remove()); // a format that the browser does not show
    const name = query.file ? query.file.name || "pasted image" : answer.query.id;
    asked.replaceChildren(image, element("div", {}, element("strong", { textContent: name })));
    if (!query.file) ids.value = answer.query.id;
  }
  function describe(answer) {
    const name = classes?.value ? ` of class ${classes.value}` : "";
    const part = shown.contains ? ` with "${shown.contains}" in their id` : "";
    if (answer.images) summary.textContent = `Images of the gallery${name}${part}; click one to search from it.`;
    else if (!answer.hits.length) summary.textContent = `No similar images${name}.`;
    else summary.textContent = `${count(offset, "most similar image")} of ${total.toLocaleString("en-US")}${name}; click one to search from it.`;
  }

  async function showMore() {
    if (running || more.hidden) return;
    const mine = running = new AbortController();
    try {
      const answer = await load(shown, offset, mine.signal);
      if (mine !== running) return;
      hits.append(...answer.hits.map(card));
      offset += answer.hits.length;
      more.hidden = !answer.more;
      describe(answer);
    } catch (error) {
      if (error.name === "AbortError" || mine !== running) return;
      say(error.message);
      more.hidden = true;
    } finally {
      if (mine === running) {
        running = null;
        fill();
      }
    }
  }
  const AHEAD = 400; // pixels below the window within which the next images are loaded
  const end = document.querySelector(".end");
  function fill() { // the observer tells of changes only
    if (!more.hidden && end.getBoundingClientRect().top < innerHeight + AHEAD) showMore();
  }
  new IntersectionObserver(fill, { rootMargin: `${AHEAD}px` }).observe(end);
  more.addEventListener("click", showMore);

  // ---- an image file
  function searchFile(chosen) {
    if (!chosen) return;
    if (!uploads) return say("This server was started without an encoder; search from an image of the gallery.");
    if (chosen.size > maxBytes) return say(`${chosen.name} is larger than ${maxBytes / 1e6} MB.`);
    ids.value = "";
    go({ file: chosen, url: URL.createObjectURL(chosen) });
  }
  file?.addEventListener("change", () => {
    searchFile(file.files[0]);
    file.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => {
    const item = [...(event.clipboardData?.files ?? [])][0];
    if (!item) return;
    event.preventDefault();
    searchFile(item);
  });
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop?.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop?.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop?.classList.remove("over");
    searchFile(event.dataTransfer?.files[0]);
  });

  // ---- an id, a class
  byId("controls").addEventListener("submit", (event) => {
    event.preventDefault();
    if (ids.value) go({ id: ids.value });
  });
  let typing = 0;
  ids.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(async () => {
      try {
        const answer = await ask("gallery/images", { contains: ids.value, class: classes?.value ?? "", k: 20 });
        byId("ids").replaceChildren(...answer.images.map((image) => element("option", { value: image.id })));
      } catch { /* only a suggestion */ }
    }, 200);
  });
  classes?.addEventListener("change", () => go(shown));
  byId("browse").addEventListener("click", () => {
    ids.value = "";
    go({});
  });
  addEventListener("popstate", fromAddress);

  fromAddress();
})();

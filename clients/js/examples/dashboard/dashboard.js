import { createElement as h } from "react";
import { Levels } from "weirgate";
import { useFeed } from "weirgate/react";

const gateway = new URLSearchParams(location.search).get("gateway") ?? "localhost:8000";

function Dashboard() {
  const { status, value } = useFeed(() => new Levels(`ws://${gateway}/ws/stream`), []);
  const { es, levels = [] } = value?.levels ?? {};
  return h("main", { "data-status": status },
    h("h1", null, "ES ", h("b", { id: "spot" }, es?.spot ?? "–")),
    h("p", { id: "status" }, status),
    h("table", null,
      h("thead", null, h("tr", null, ["Level", "Price", "Distance", "Signal"].map((name) => h("th", { key: name }, name)))),
      h("tbody", null, levels.map(({ id, level_price, distance, signal }) =>
        h("tr", { key: id }, h("th", null, id), h("td", null, level_price), h("td", null, distance), h("td", null, signal))))));
}

window.ReactDOM.createRoot(document.getElementById("root")).render(h(Dashboard));

// What the dashboard knows: the last whole status, and every change since. Pure.

const POINTS = 60; // of a sparkline
const CHANGES = 100;

export class State {
  report = null;
  rates = new Map(); // tokens per second, by worker
  changes = []; // the latest first

  // One event of /admin/events. `at`: milliseconds.
  apply(kind, data, at) {
    if (kind === "snapshot" || kind === "status") {
      this.report = data;
      this.#noteRates();
      return;
    }
    this.changes = [{ kind, at, ...data }, ...this.changes].slice(0, CHANGES);
    if (this.report && kind === "worker") this.#changeWorker(data);
    if (this.report && kind === "model") this.#changeModel(data);
  }

  #noteRates() {
    const rates = new Map();
    for (const worker of this.report.workers) {
      const before = this.rates.get(worker.id) ?? [];
      rates.set(worker.id, [...before, Number(worker.engine.tokens_per_second ?? 0)].slice(-POINTS));
    }
    this.rates = rates;
  }

  // A worker that is new comes with the next status.
  #changeWorker({ name, state }) {
    const workers = this.report.workers
      .filter((worker) => !(worker.id === name && state === "gone"))
      .map((worker) => (worker.id === name ? { ...worker, state } : worker));
    this.report = { ...this.report, workers };
  }

  #changeModel({ name, state, detail = "" }) {
    const models = this.report.models.map((model) =>
      model.id === name ? { ...model, state, reason: state === "failed" ? detail : null } : model,
    );
    this.report = { ...this.report, models };
  }
}

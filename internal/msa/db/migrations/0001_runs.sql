-- The step journal: package runs says what the columns mean.

CREATE TABLE runs (
	id          TEXT   NOT NULL PRIMARY KEY,
	request     TEXT   NOT NULL UNIQUE,
	digest      TEXT   NOT NULL,
	subject     TEXT   NOT NULL,
	operation   TEXT   NOT NULL,
	started_by  TEXT   NOT NULL,
	rerun_of    TEXT   NOT NULL,
	state       TEXT   NOT NULL,
	phase       TEXT   NOT NULL,
	verdict     TEXT   NOT NULL,
	reason      TEXT   NOT NULL,
	unfolded    BIGINT NOT NULL,
	cancel_at   BIGINT NOT NULL,
	cancel_by   TEXT   NOT NULL,
	owner       TEXT   NOT NULL,
	epoch       BIGINT NOT NULL,
	lease_until BIGINT NOT NULL,
	crashes     BIGINT NOT NULL,
	pokes       BIGINT NOT NULL,
	due_at      BIGINT NOT NULL,
	created_at  BIGINT NOT NULL,
	ended_at    BIGINT NOT NULL
);
CREATE INDEX runs_by_due ON runs (state, due_at);
CREATE INDEX runs_by_subject ON runs (subject, created_at);

-- Apart from the row that every commit of a run rewrites: it has megabytes.
CREATE TABLE run_snapshots (
	run      TEXT NOT NULL PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
	snapshot TEXT NOT NULL
);

CREATE TABLE run_steps (
	run      TEXT   NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
	seq      BIGINT NOT NULL,
	phase    TEXT   NOT NULL,
	name     TEXT   NOT NULL,
	spec     TEXT   NOT NULL,
	status   TEXT   NOT NULL,
	blocks   BIGINT NOT NULL,
	executes BIGINT NOT NULL,
	attempt  BIGINT NOT NULL,
	failures BIGINT NOT NULL,
	due_at   BIGINT NOT NULL,
	begun_at BIGINT NOT NULL,
	ended_at BIGINT NOT NULL,
	done     BIGINT NOT NULL,
	total    BIGINT NOT NULL,
	note     TEXT   NOT NULL,
	memory   TEXT   NOT NULL,
	output   TEXT   NOT NULL,
	PRIMARY KEY (run, seq)
);

CREATE TABLE run_notes (
	run   TEXT   NOT NULL,
	seq   BIGINT NOT NULL,
	n     BIGINT NOT NULL,
	at    BIGINT NOT NULL,
	level TEXT   NOT NULL,
	words TEXT   NOT NULL,
	PRIMARY KEY (run, seq, n),
	FOREIGN KEY (run, seq) REFERENCES run_steps (run, seq) ON DELETE CASCADE
);

CREATE TABLE run_prompts (
	run         TEXT   NOT NULL,
	seq         BIGINT NOT NULL,
	question    TEXT   NOT NULL,
	choices     TEXT   NOT NULL,
	opened_at   BIGINT NOT NULL,
	answer      TEXT   NOT NULL,
	answered_by TEXT   NOT NULL,
	answered_at BIGINT NOT NULL,
	PRIMARY KEY (run, seq),
	FOREIGN KEY (run, seq) REFERENCES run_steps (run, seq) ON DELETE CASCADE
);

-- The change feed. Its numbers are handed out from the row below, which a
-- transaction holds until it commits: what a reader sees has no holes that are
-- filled later.
CREATE TABLE run_events (
	seq    BIGINT NOT NULL PRIMARY KEY,
	at     BIGINT NOT NULL,
	run    TEXT   NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
	step   BIGINT NOT NULL,
	change TEXT   NOT NULL,
	words  TEXT   NOT NULL
);
CREATE INDEX run_events_by_run ON run_events (run, seq);

CREATE TABLE sequences (
	name  TEXT   NOT NULL PRIMARY KEY,
	value BIGINT NOT NULL
);
INSERT INTO sequences (name, value) VALUES ('run_events', 0);

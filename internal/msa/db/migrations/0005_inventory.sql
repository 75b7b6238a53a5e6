-- What sites have: package inventory says what the columns mean. A row's doc is the
-- JSON of package site; other columns are what pages are ordered and filtered by.

CREATE TABLE inventory_sites (
	site        TEXT   NOT NULL PRIMARY KEY,
	generation  BIGINT NOT NULL,
	seen_at     BIGINT NOT NULL,
	away_since  BIGINT NOT NULL,
	words       TEXT   NOT NULL,
	owner       TEXT   NOT NULL,
	epoch       BIGINT NOT NULL,
	lease_until BIGINT NOT NULL
);

CREATE TABLE inventory_vms (
	site    TEXT   NOT NULL REFERENCES inventory_sites (site) ON DELETE CASCADE,
	id      TEXT   NOT NULL,
	name    TEXT   NOT NULL,
	host    TEXT   NOT NULL,
	folder  TEXT   NOT NULL,
	running BIGINT NOT NULL,
	stands_for TEXT NOT NULL,
	doc     TEXT   NOT NULL,
	PRIMARY KEY (site, id)
);
CREATE INDEX inventory_vms_by_name ON inventory_vms (site, name, id);

CREATE TABLE inventory_places (
	site TEXT NOT NULL REFERENCES inventory_sites (site) ON DELETE CASCADE,
	kind TEXT NOT NULL,
	ref  TEXT NOT NULL,
	doc  TEXT NOT NULL,
	PRIMARY KEY (site, kind, ref)
);

CREATE TABLE placeholders (
	site   TEXT   NOT NULL,
	vm     TEXT   NOT NULL,
	domain TEXT   NOT NULL,
	id     TEXT   NOT NULL,
	ref    TEXT   NOT NULL,
	state  TEXT   NOT NULL,
	error  TEXT   NOT NULL,
	used   BIGINT NOT NULL,
	doc    TEXT   NOT NULL,
	due_at BIGINT NOT NULL,
	tries  BIGINT NOT NULL,
	PRIMARY KEY (site, vm)
);
CREATE INDEX placeholders_by_domain ON placeholders (domain, site, vm);

-- Events and alarms: package alarm says what the columns mean.

CREATE TABLE events (
	id       TEXT   NOT NULL PRIMARY KEY,
	at       BIGINT NOT NULL,
	code     TEXT   NOT NULL,
	severity TEXT   NOT NULL,
	state    TEXT   NOT NULL,
	object   TEXT   NOT NULL,
	detail   TEXT   NOT NULL
);
CREATE INDEX events_by_time ON events (at);

CREATE TABLE alarms (
	code            TEXT   NOT NULL,
	object          TEXT   NOT NULL,
	detail          TEXT   NOT NULL,
	count           BIGINT NOT NULL,
	raised_at       BIGINT NOT NULL,
	cleared_at      BIGINT NOT NULL,
	acknowledged_at BIGINT NOT NULL,
	acknowledged_by TEXT   NOT NULL,
	note            TEXT   NOT NULL,
	PRIMARY KEY (code, object)
);
CREATE INDEX alarms_by_time ON alarms (raised_at, code, object);

CREATE TABLE outlets (
	name     TEXT   NOT NULL PRIMARY KEY,
	version  BIGINT NOT NULL,
	body     TEXT   NOT NULL,
	sent     BIGINT NOT NULL,
	dropped  BIGINT NOT NULL,
	sent_at  BIGINT NOT NULL,
	failures BIGINT NOT NULL,
	error    TEXT   NOT NULL
);

CREATE TABLE deliveries (
	outlet      TEXT   NOT NULL REFERENCES outlets (name) ON DELETE CASCADE,
	event       TEXT   NOT NULL REFERENCES events (id) ON DELETE CASCADE,
	made_at     BIGINT NOT NULL,
	due_at      BIGINT NOT NULL,
	tries       BIGINT NOT NULL,
	owner       TEXT   NOT NULL,
	lease_until BIGINT NOT NULL,
	PRIMARY KEY (outlet, event)
);
CREATE INDEX deliveries_by_due ON deliveries (due_at);

-- Statistics: package stats says what the columns mean.

CREATE TABLE stats (
	level  BIGINT NOT NULL,
	metric TEXT   NOT NULL,
	object TEXT   NOT NULL,
	at     BIGINT NOT NULL,
	n      BIGINT NOT NULL,
	total  BIGINT NOT NULL,
	least  BIGINT NOT NULL,
	most   BIGINT NOT NULL,
	PRIMARY KEY (level, metric, object, at)
);
CREATE INDEX stats_by_time ON stats (level, at);

-- What was stored in containers for a fresh manager: package scan says what the
-- columns mean.

CREATE TABLE published (
	domain TEXT   NOT NULL PRIMARY KEY,
	digest TEXT   NOT NULL,
	at     BIGINT NOT NULL,
	due_at BIGINT NOT NULL,
	tries  BIGINT NOT NULL
);

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

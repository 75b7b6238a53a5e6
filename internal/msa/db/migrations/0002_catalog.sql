-- What admins configure: package catalog says what the columns mean.

CREATE TABLE objects (
	kind       TEXT   NOT NULL,
	name       TEXT   NOT NULL,
	id         TEXT   NOT NULL UNIQUE,
	version    BIGINT NOT NULL,
	folder     TEXT   NOT NULL,
	body       TEXT   NOT NULL,
	changed_at BIGINT NOT NULL,
	changed_by TEXT   NOT NULL,
	PRIMARY KEY (kind, name)
);

-- Which object names which other one. What is named cannot be deleted, whoever
-- deletes at the same time as somebody else begins to name it.
CREATE TABLE object_refs (
	kind    TEXT NOT NULL,
	name    TEXT NOT NULL,
	field   TEXT NOT NULL,
	to_kind TEXT NOT NULL,
	to_name TEXT NOT NULL,
	PRIMARY KEY (kind, name, field),
	FOREIGN KEY (kind, name) REFERENCES objects (kind, name) ON DELETE CASCADE,
	FOREIGN KEY (to_kind, to_name) REFERENCES objects (kind, name)
);
CREATE INDEX object_refs_by_target ON object_refs (to_kind, to_name);

CREATE TABLE drafts (
	id          TEXT   NOT NULL PRIMARY KEY,
	version     BIGINT NOT NULL,
	kind        TEXT   NOT NULL,
	name        TEXT   NOT NULL,
	base        BIGINT NOT NULL,
	folder      TEXT   NOT NULL,
	body        TEXT   NOT NULL,
	made_by     TEXT   NOT NULL,
	changed_by  TEXT   NOT NULL,
	made_at     BIGINT NOT NULL,
	changed_at  BIGINT NOT NULL
);
CREATE INDEX drafts_by_object ON drafts (kind, name);

-- The change feed of everything the manager knows. Its numbers come from the row
-- below, which a transaction holds until it commits: what a reader sees has no
-- holes that are filled later.
CREATE TABLE changes (
	seq     BIGINT NOT NULL PRIMARY KEY,
	at      BIGINT NOT NULL,
	kind    TEXT   NOT NULL,
	name    TEXT   NOT NULL,
	folder  TEXT   NOT NULL,
	action  TEXT   NOT NULL,
	made_by TEXT   NOT NULL
);
INSERT INTO sequences (name, value) VALUES ('changes', 0);
INSERT INTO sequences (name, value) VALUES ('catalog', 0);

-- Answers to requests that had a key: package api says what the columns mean.
CREATE TABLE answers (
	id        TEXT   NOT NULL PRIMARY KEY,
	digest    TEXT   NOT NULL,
	answer    TEXT   NOT NULL,
	made_at   BIGINT NOT NULL
);
CREATE INDEX answers_by_age ON answers (made_at);

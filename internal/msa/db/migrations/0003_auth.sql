-- Who may do what, who did what, and what is secret: packages auth, audit, seal,
-- pki, pair and enrol say what the columns mean. Of tokens, passwords and sessions
-- there are only hashes; secrets are sealed with a key that is not in the database.

CREATE TABLE users (
	name        TEXT   NOT NULL PRIMARY KEY,
	issuer      TEXT   NOT NULL,
	subject     TEXT   NOT NULL,
	title       TEXT   NOT NULL,
	password    TEXT   NOT NULL,
	disabled    BIGINT NOT NULL,
	version     BIGINT NOT NULL,
	created_at  BIGINT NOT NULL,
	changed_at  BIGINT NOT NULL,
	login_at    BIGINT NOT NULL,
	UNIQUE (issuer, subject)
);

CREATE TABLE user_grants (
	holder TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
	role   TEXT NOT NULL,
	folder TEXT NOT NULL,
	PRIMARY KEY (holder, role, folder)
);

CREATE TABLE user_sessions (
	hash       TEXT   NOT NULL PRIMARY KEY,
	holder     TEXT   NOT NULL REFERENCES users (name) ON DELETE CASCADE,
	created_at BIGINT NOT NULL,
	seen_at    BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	remote     TEXT   NOT NULL,
	agent      TEXT   NOT NULL
);
CREATE INDEX user_sessions_by_holder ON user_sessions (holder, created_at);

CREATE TABLE user_tokens (
	id         TEXT   NOT NULL PRIMARY KEY,
	hash       TEXT   NOT NULL UNIQUE,
	holder     TEXT   NOT NULL REFERENCES users (name) ON DELETE CASCADE,
	title      TEXT   NOT NULL,
	scope      TEXT   NOT NULL,
	created_at BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	used_at    BIGINT NOT NULL
);
CREATE INDEX user_tokens_by_holder ON user_tokens (holder, created_at);

-- Tokens that are good once: for set-up, enrolment, pairing, log-in by a provider.
CREATE TABLE single_tokens (
	hash       TEXT   NOT NULL PRIMARY KEY,
	purpose    TEXT   NOT NULL,
	subject    TEXT   NOT NULL,
	content    TEXT   NOT NULL,
	created_by TEXT   NOT NULL,
	created_at BIGINT NOT NULL,
	expires_at BIGINT NOT NULL
);
CREATE INDEX single_tokens_by_subject ON single_tokens (purpose, subject);

CREATE TABLE login_failures (
	place        TEXT   NOT NULL PRIMARY KEY,
	failures     BIGINT NOT NULL,
	failed_at    BIGINT NOT NULL,
	locked_until BIGINT NOT NULL
);

CREATE TABLE login_provider (
	id      TEXT   NOT NULL PRIMARY KEY,
	content TEXT   NOT NULL,
	version BIGINT NOT NULL
);

CREATE TABLE approvals (
	id           TEXT   NOT NULL PRIMARY KEY,
	subject      TEXT   NOT NULL,
	operation    TEXT   NOT NULL,
	digest       TEXT   NOT NULL,
	folder       TEXT   NOT NULL,
	asked_by     TEXT   NOT NULL,
	asked_at     BIGINT NOT NULL,
	expires_at   BIGINT NOT NULL,
	verdict      TEXT   NOT NULL,
	decided_by   TEXT   NOT NULL,
	decided_at   BIGINT NOT NULL,
	used_at      BIGINT NOT NULL
);
CREATE INDEX approvals_by_subject ON approvals (subject, asked_at);

-- Append-only: no statement anywhere changes or deletes a row of audit.
CREATE TABLE audit (
	seq       BIGINT NOT NULL PRIMARY KEY,
	at        BIGINT NOT NULL,
	done_by   TEXT   NOT NULL,
	operation TEXT   NOT NULL,
	object    TEXT   NOT NULL,
	outcome   TEXT   NOT NULL,
	remote    TEXT   NOT NULL,
	detail    TEXT   NOT NULL,
	hash      TEXT   NOT NULL
);
CREATE INDEX audit_by_time ON audit (at);
CREATE TABLE audit_head (
	id   TEXT   NOT NULL PRIMARY KEY,
	seq  BIGINT NOT NULL,
	hash TEXT   NOT NULL
);
INSERT INTO audit_head (id, seq, hash) VALUES ('audit', 0, '');


CREATE TABLE secrets (
	name       TEXT   NOT NULL PRIMARY KEY,
	key_id     TEXT   NOT NULL,
	sealed     TEXT   NOT NULL,
	version    BIGINT NOT NULL,
	changed_by TEXT   NOT NULL,
	changed_at BIGINT NOT NULL
);
CREATE INDEX secrets_by_key ON secrets (key_id, name);

CREATE TABLE authority (
	id         TEXT   NOT NULL PRIMARY KEY,
	site       TEXT   NOT NULL,
	cert       TEXT   NOT NULL,
	created_at BIGINT NOT NULL
);

CREATE TABLE peers (
	name           TEXT   NOT NULL PRIMARY KEY,
	peer_site      TEXT   NOT NULL,
	address        TEXT   NOT NULL,
	trust          TEXT   NOT NULL,
	authority      TEXT   NOT NULL,
	fingerprint    TEXT   NOT NULL,
	presented      TEXT   NOT NULL,
	presented_at   BIGINT NOT NULL,
	presented_by   TEXT   NOT NULL,
	created_at     BIGINT NOT NULL,
	changed_at     BIGINT NOT NULL,
	out_at         BIGINT NOT NULL,
	out_ok_at      BIGINT NOT NULL,
	out_error      TEXT   NOT NULL,
	out_remedy     TEXT   NOT NULL,
	in_at          BIGINT NOT NULL,
	skew           BIGINT NOT NULL,
	release        TEXT   NOT NULL
);

CREATE TABLE enrolments (
	name         TEXT   NOT NULL PRIMARY KEY,
	role         TEXT   NOT NULL,
	box          TEXT   NOT NULL,
	state        TEXT   NOT NULL,
	generation   BIGINT NOT NULL,
	addresses    TEXT   NOT NULL,
	domains      TEXT   NOT NULL,
	cert         TEXT   NOT NULL,
	cert_until   BIGINT NOT NULL,
	cert_before  TEXT   NOT NULL,
	enrolled_at  BIGINT NOT NULL,
	changed_at   BIGINT NOT NULL,
	seen_at      BIGINT NOT NULL,
	remote       TEXT   NOT NULL,
	release      TEXT   NOT NULL,
	skew         BIGINT NOT NULL,
	capacity     TEXT   NOT NULL
);
CREATE UNIQUE INDEX enrolments_by_box ON enrolments (role, box);

INSERT INTO sequences (name, value) VALUES ('users', 0);

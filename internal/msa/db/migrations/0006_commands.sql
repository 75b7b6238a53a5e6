-- What appliances are to do: package command says what the columns mean.

CREATE TABLE commands (
	id        TEXT   NOT NULL PRIMARY KEY,
	origin    TEXT   NOT NULL,
	key       TEXT   NOT NULL,
	box       TEXT   NOT NULL,
	plan      TEXT   NOT NULL,
	run       TEXT   NOT NULL,
	seq       BIGINT NOT NULL,
	state     TEXT   NOT NULL,
	epoch     BIGINT NOT NULL,
	cancelled BIGINT NOT NULL,
	told      BIGINT NOT NULL,
	made_at   BIGINT NOT NULL,
	asked_at  BIGINT NOT NULL,
	done_at   BIGINT NOT NULL,
	deadline  BIGINT NOT NULL,
	doc       TEXT   NOT NULL,
	progress  TEXT   NOT NULL,
	outcome   TEXT   NOT NULL,
	UNIQUE (origin, key, box)
);
CREATE INDEX commands_by_box ON commands (box, state, made_at);
CREATE INDEX commands_by_age ON commands (state, asked_at);

-- Which recovery appliance has a plan's domain.
CREATE TABLE command_places (
	origin TEXT NOT NULL,
	plan   TEXT NOT NULL,
	domain TEXT NOT NULL,
	box    TEXT NOT NULL,
	PRIMARY KEY (origin, plan, domain)
);
CREATE INDEX command_places_by_box ON command_places (box);

-- What boxes have of domains, as they tell: lives is 1 for a recovery that was
-- committed; vms are ids.
CREATE TABLE command_homes (
	box     TEXT   NOT NULL,
	domain  TEXT   NOT NULL,
	lives   BIGINT NOT NULL,
	vms     TEXT   NOT NULL,
	told_at BIGINT NOT NULL,
	PRIMARY KEY (box, domain)
);
CREATE INDEX command_homes_by_domain ON command_homes (domain);

-- What was asked of other sites' managers, until it is known how it ended.
CREATE TABLE command_abroad (
	key  TEXT   NOT NULL PRIMARY KEY,
	pair TEXT   NOT NULL,
	run  TEXT   NOT NULL,
	seq  BIGINT NOT NULL,
	at   BIGINT NOT NULL
);

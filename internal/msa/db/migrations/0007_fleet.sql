-- What appliances are to be: package fleet says what the columns mean.

CREATE TABLE fleet_domains (
	domain    TEXT   NOT NULL PRIMARY KEY,
	id        TEXT   NOT NULL,
	url       TEXT   NOT NULL,
	opens     TEXT   NOT NULL,
	checked   TEXT   NOT NULL,
	due_at    BIGINT NOT NULL,
	tries     BIGINT NOT NULL,
	error     TEXT   NOT NULL,
	remedy    TEXT   NOT NULL,
	kind      TEXT   NOT NULL,
	drva      TEXT   NOT NULL,
	leaving   BIGINT NOT NULL,
	placed_at BIGINT NOT NULL
);
CREATE INDEX fleet_domains_by_box ON fleet_domains (drva);

CREATE TABLE fleet_boxes (
	box        TEXT   NOT NULL PRIMARY KEY,
	serial     BIGINT NOT NULL,
	generation TEXT   NOT NULL,
	heard_at   BIGINT NOT NULL,
	started    BIGINT NOT NULL,
	report     TEXT   NOT NULL
);

-- What paired sites tell of themselves and of domains both have to do with.

CREATE TABLE fleet_peers (
	site      TEXT   NOT NULL PRIMARY KEY,
	recipient TEXT   NOT NULL,
	heard_at  BIGINT NOT NULL
);

CREATE TABLE fleet_peer_domains (
	site     TEXT   NOT NULL REFERENCES fleet_peers (site) ON DELETE CASCADE,
	domain   TEXT   NOT NULL,
	at       TEXT   NOT NULL,
	state    TEXT   NOT NULL,
	newest   BIGINT NOT NULL,
	failover TEXT   NOT NULL,
	reversed BIGINT NOT NULL,
	heard_at BIGINT NOT NULL,
	PRIMARY KEY (site, domain)
);

INSERT INTO sequences (name, value) VALUES ('fleet', 0);

-- Plans that are carried out: package operate says what the columns mean.

CREATE TABLE plan_states (
	plan         TEXT   NOT NULL PRIMARY KEY,
	state        TEXT   NOT NULL,
	doing        TEXT   NOT NULL,
	paused       TEXT   NOT NULL,
	reversed     BIGINT NOT NULL,
	run          TEXT   NOT NULL,
	epoch        BIGINT NOT NULL,
	alone        BIGINT NOT NULL,
	scope        TEXT   NOT NULL,
	decide       TEXT   NOT NULL,
	decide_at    BIGINT NOT NULL,
	reason       TEXT   NOT NULL,
	last_test    BIGINT NOT NULL,
	last_test_ok BIGINT NOT NULL,
	changed_at   BIGINT NOT NULL
);
CREATE INDEX plan_states_by_decision ON plan_states (decide_at);

-- Which plan has which domain to itself: the key is the exclusion.
CREATE TABLE plan_claims (
	domain TEXT NOT NULL PRIMARY KEY,
	plan   TEXT NOT NULL
);

-- VMs of the protected site that a plan's runs shut down.
CREATE TABLE plan_stopped (
	plan TEXT NOT NULL,
	vm   TEXT NOT NULL,
	PRIMARY KEY (plan, vm)
);

CREATE TABLE domain_states (
	domain     TEXT   NOT NULL PRIMARY KEY,
	failover   TEXT   NOT NULL,
	reversed   BIGINT NOT NULL,
	plan       TEXT   NOT NULL,
	changed_at BIGINT NOT NULL
);

-- The history of runs. It outlives the step journal's rows.
CREATE TABLE plan_runs (
	run          TEXT   NOT NULL PRIMARY KEY,
	request      TEXT   NOT NULL UNIQUE,
	plan         TEXT   NOT NULL,
	asked        TEXT   NOT NULL,
	operation    TEXT   NOT NULL,
	started_by   TEXT   NOT NULL,
	agreed       TEXT   NOT NULL,
	confirmation TEXT   NOT NULL,
	head         TEXT   NOT NULL,
	began_at     BIGINT NOT NULL,
	ended_at     BIGINT NOT NULL,
	status       TEXT   NOT NULL,
	event        TEXT   NOT NULL,
	state_after  TEXT   NOT NULL,
	notes        TEXT   NOT NULL,
	report       TEXT   NOT NULL
);
CREATE INDEX plan_runs_by_plan ON plan_runs (plan, began_at);
CREATE INDEX plan_runs_by_end ON plan_runs (ended_at);

CREATE TABLE plan_schedules (
	plan        TEXT   NOT NULL PRIMARY KEY,
	timetable   TEXT   NOT NULL,
	next_at     BIGINT NOT NULL,
	cleanup_at  BIGINT NOT NULL,
	reminded_at BIGINT NOT NULL
);

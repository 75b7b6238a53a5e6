-- VMs of this site that are of a shared domain though no list says so any more, or yet:
-- package command says what the columns mean.

CREATE TABLE command_members (
	domain   TEXT   NOT NULL,
	vm       TEXT   NOT NULL,
	ref      TEXT   NOT NULL,
	named_at BIGINT NOT NULL,
	PRIMARY KEY (domain, vm)
);
CREATE INDEX command_members_by_vm ON command_members (vm);

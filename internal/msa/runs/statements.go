package runs

// statements are those by which replicas exclude each other. They stand together
// because all of the package's promises rest on their conditions, and so that tests
// can take one away and see that it is missed.
type statements struct {
	// claim takes a run whose lease has ended: $1 id, $2 the epoch that was seen,
	// $3 owner, $4 now, $5 until when. An owner that was still named has not let
	// go: it crashed, or slept.
	claim string
	// guard locks a run's row for its owner: $1 id, $2 owner, $3 epoch.
	guard string
	// renew extends all leases of an owner: $1 owner, $2 until when.
	renew string
	// answer enters the first answer of a prompt whose step waits for one: $1 run,
	// $2 seq, $3 answer, $4 by, $5 now.
	answer string
}

var sqlText = statements{
	claim: `UPDATE runs SET owner = $3, epoch = epoch + 1, lease_until = $5, due_at = 0,
		crashes = CASE WHEN owner = '' THEN crashes ELSE crashes + 1 END
		WHERE id = $1 AND epoch = $2 AND state = 'active' AND lease_until <= $4
		RETURNING epoch, crashes`,
	guard: `UPDATE runs SET epoch = epoch WHERE id = $1 AND owner = $2 AND epoch = $3 AND state = 'active'
		RETURNING pokes`,
	renew: `UPDATE runs SET lease_until = $2 WHERE owner = $1 AND state = 'active'
		RETURNING id, epoch, pokes`,
	answer: `UPDATE run_prompts SET answer = $3, answered_by = $4, answered_at = $5
		WHERE run = $1 AND seq = $2 AND answered_at = 0
		AND EXISTS (SELECT 1 FROM run_steps s WHERE s.run = $1 AND s.seq = $2 AND s.status = 'running')`,
}

// stepColumns are the columns of run_steps that scanStep reads, in its order.
const stepColumns = `seq, phase, spec, status, blocks, executes, attempt, failures, due_at, begun_at, ended_at, done, total, note, memory, output`

package nbd

import "errors"

// errDisconnect is a client's orderly goodbye.
var errDisconnect = errors.New("client disconnected")

// commands maps a command to its function. An error ends the connection;
// what is merely wrong with one request is answered.
var commands = [...]func(t *transmission, r *request) error{
	cmdRead:        (*transmission).read,
	cmdWrite:       (*transmission).write,
	cmdDisc:        (*transmission).disconnect,
	cmdFlush:       (*transmission).flushAll,
	cmdTrim:        (*transmission).trim,
	cmdCache:       (*transmission).cache,
	cmdWriteZeroes: (*transmission).writeZeroes,
	cmdBlockStatus: (*transmission).blockStatus,
}

// dispatch runs one request whose payload is there. The caller has seen room.
func (t *transmission) dispatch(r *request) error {
	if int(r.cmd) >= len(commands) {
		t.lp.reject(r, errnoInvalid)
		return nil
	}
	return commands[r.cmd](t, r)
}

// check returns the errno of a request over a range: flags beyond allowed,
// nothing asked for, beyond the end (outside is the errno for that). FUA is
// taken with every command, as the protocol demands once it is advertised.
func (t *transmission) check(r *request, allowed Flags, outside uint32) uint32 {
	switch {
	case r.flags&^(allowed|FUA) != 0 || r.length == 0:
		return errnoInvalid
	case r.offset > t.size || uint64(r.length) > t.size-r.offset:
		return outside
	}
	return 0
}

// checkWrite adds what every changing request is checked for.
func (t *transmission) checkWrite(r *request, allowed Flags, outside uint32) uint32 {
	if t.readOnly {
		return errnoPerm
	}
	return t.check(r, allowed, outside)
}

func (t *transmission) read(r *request) error {
	no := t.check(r, flagDF, errnoInvalid)
	if no == 0 && r.length > maxPayload {
		no = errnoInvalid
	}
	if no != 0 {
		t.lp.reject(r, no)
		return nil
	}
	op := t.newOp(r, Read)
	t.lp.reserve(op, int(r.length))
	t.lp.submit(t.dev, op)
	return nil
}

func (t *transmission) write(r *request) error {
	if no := t.checkWrite(r, 0, errnoNoSpace); no != 0 {
		t.lp.reject(r, no)
		return nil
	}
	op := t.newOp(r, Write)
	op.Data, op.hold = r.payload, r.hold
	op.hold.retain()
	t.lp.submit(t.dev, op)
	return nil
}

func (t *transmission) disconnect(*request) error { return errDisconnect }

// flushAll covers every write completed so far on any connection of the
// export: they all end in one descriptor.
func (t *transmission) flushAll(r *request) error {
	if r.flags&^FUA != 0 || r.offset != 0 || r.length != 0 {
		t.lp.reject(r, errnoInvalid)
		return nil
	}
	t.lp.submit(t.dev, t.newOp(r, Flush))
	return nil
}

func (t *transmission) trim(r *request) error {
	return t.change(r, Trim, 0, errnoInvalid)
}

func (t *transmission) writeZeroes(r *request) error {
	return t.change(r, WriteZeroes, NoHole|FastZero, errnoNoSpace)
}

func (t *transmission) change(r *request, kind Kind, allowed Flags, outside uint32) error {
	if no := t.checkWrite(r, allowed, outside); no != 0 {
		t.lp.reject(r, no)
		return nil
	}
	t.lp.submit(t.dev, t.newOp(r, kind))
	return nil
}

// cache is advice to read ahead; it changes nothing, so layers do not see it.
func (t *transmission) cache(r *request) error {
	if no := t.check(r, 0, errnoInvalid); no != 0 {
		t.lp.reject(r, no)
		return nil
	}
	t.lp.submit(advisor{t}, t.newOp(r, Read))
	return nil
}

// blockStatus asks the primary alone: a layer may hold a reply back, but
// never data.
func (t *transmission) blockStatus(r *request) error {
	no := t.check(r, flagReqOne, errnoInvalid)
	if !t.allocation {
		no = errnoInvalid
	}
	if no != 0 {
		t.lp.reject(r, no)
		return nil
	}
	op := t.newOp(r, Read)
	op.Scratch[0] = 0
	if r.flags&flagReqOne != 0 {
		op.Scratch[0] = 1
	}
	t.lp.submit(surveyor{t}, op)
	return nil
}

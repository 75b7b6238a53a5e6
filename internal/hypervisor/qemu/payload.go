package qemu

// Addresses of the trial boot, fixed by its code below.
const (
	sectorSize = 512
	// exitPort is where QEMU's isa-debug-exit device listens, and exitValue
	// what the trial boot writes there: QEMU ends with exitStatus.
	exitPort   = 0xf4
	exitValue  = 0x10
	exitStatus = exitValue<<1 | 1
)

// trialBoot is a boot sector that walks through every mode a guest's own boot
// does, real, protected and long, with paging, and then ends QEMU: an
// accelerator that gets there can boot guests, and the BIOS before it is
// enough work to tell a fast one from a slow one. It is loaded at 0x7c00.
var trialBoot = sector(
	// real mode
	"\xfa" + //                      cli
		"\x31\xc0" + //              xor  ax, ax
		"\x8e\xd8" + //              mov  ds, ax
		"\x8e\xc0" + //              mov  es, ax
		"\x8e\xd0" + //              mov  ss, ax
		"\xbc\x00\x7c" + //          mov  sp, 0x7c00
		"\xe4\x92\x0c\x02\xe6\x92" + // in al, 0x92; or al, 2; out 0x92, al: address line 20
		"\xfc" + //                  cld
		"\xbf\x00\x10" + //          mov  di, 0x1000
		"\x66\x31\xc0" + //          xor  eax, eax
		"\xb9\x00\x0c" + //          mov  cx, 0xc00
		"\x66\xf3\xab" + //          rep stosd: three pages of page tables, that map
		"\xc7\x06\x00\x10\x03\x20" + // mov word [0x1000], 0x2003: 512 GiB
		"\xc7\x06\x00\x20\x03\x30" + // mov word [0x2000], 0x3003: 1 GiB
		"\xc7\x06\x00\x30\x83\x00" + // mov word [0x3000], 0x0083: 2 MiB onto itself
		"\x0f\x01\x16\xb0\x7c" + //  lgdt [0x7cb0]
		"\x0f\x20\xc0\x0c\x01\x0f\x22\xc0" + // cr0 |= protection
		"\xea\x43\x7c\x08\x00" + //  jmp  8:0x7c43
		// protected mode
		"\x66\xb8\x10\x00\x8e\xd8" + // mov ax, 16; mov ds, ax
		"\x0f\x20\xe0\x0c\x20\x0f\x22\xe0" + // cr4 |= physical address extension
		"\xb8\x00\x10\x00\x00\x0f\x22\xd8" + // cr3 = 0x1000
		"\xb9\x80\x00\x00\xc0\x0f\x32\x80\xcc\x01\x0f\x30" + // efer |= long mode
		"\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0" + // cr0 |= paging
		"\xea\x77\x7c\x00\x00\x18\x00" + // jmp 24:0x7c77
		// long mode
		"\x31\xc0\x0f\xa2" + //      xor  eax, eax; cpuid
		"\xb9\xe8\x03\x00\x00" + //  mov  ecx, 1000
		"\xf3\x90\xe2\xfc" + //      pause; loop
		"\xb0\x10\xe6\xf4" + //      mov  al, exitValue; out exitPort, al
		"\xf4\xeb\xfd" + //          hlt; jmp back
		"\x0f\x1f\x44\x00\x00" + //  alignment
		// segments at 0x7c90: none, 32-bit code, data, 64-bit code
		"\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\xff\xff\x00\x00\x00\x9a\xcf\x00" +
		"\xff\xff\x00\x00\x00\x92\xcf\x00" +
		"\xff\xff\x00\x00\x00\x9a\xaf\x00" +
		"\x1f\x00\x90\x7c\x00\x00", // at 0x7cb0: their length - 1 and address
)

// sector returns a boot sector with the given code.
func sector(code string) []byte {
	b := make([]byte, sectorSize)
	copy(b, code)
	b[510], b[511] = 0x55, 0xaa
	return b
}

# A boot sector that proves a disk: it writes 64 sectors from 1 MiB on, each
# filled with its number, reads each back, compares, says OK on the first
# serial port and ends QEMU through its debug exit device. Assembled with
#   as --32 boot.S -o boot.o && objcopy -O binary -j .text boot.o boot.bin
	.code16
	.org 0
start:	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp
	cld
	movw	$1, %bx
sector:	movw	$0x8000, %di		# fill the buffer with the number
	movb	%bl, %al
	movw	$512, %cx
	rep stosb
	movw	$0x4300, %ax		# write it
	movw	$0x7c00 + packet, %si
	int	$0x13
	jc	fail
	movw	$0x8000, %di		# forget it
	xorw	%ax, %ax
	movw	$256, %cx
	rep stosw
	movw	$0x4200, %ax		# read it back
	movw	$0x7c00 + packet, %si
	int	$0x13
	jc	fail
	movw	$0x8000, %di		# compare
	movb	%bl, %al
	movw	$512, %cx
	repe scasb
	jne	fail
	incw	0x7c00 + packet + 8
	incw	%bx
	cmpw	$65, %bx
	jne	sector
	movw	$0x3f8, %dx
	movb	$'O', %al
	outb	%al, %dx
	movb	$'K', %al
	outb	%al, %dx
	jmp	end
fail:	movw	$0x3f8, %dx
	movb	$'N', %al
	outb	%al, %dx
end:	outb	%al, $0xf4
	hlt
	jmp	end
	.balign	4
packet:	.byte	16, 0			# size of this packet
	.word	1			# sectors
	.word	0x8000, 0		# buffer
	.quad	2048			# first sector
	.org	510
	.byte	0x55, 0xaa

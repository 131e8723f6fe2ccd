/* Runs each form with one pointer at a time near a page that may not be accessed, or only be
 * read, and prints what the signal frame says of each page fault. See tests/host/test_insn.py. */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096L
#define LOW 0x10000000L /* 32-bit, so that addr32 forms reach it */
#define GOOD (LOW + 64 * PAGE)
#define CODE 0x20000000L

struct form { const char *start, *end; long rax_pointer; };
extern const struct form forms[];
extern const long form_count;
void enter_form(const long *regs, void *target);

static sigjmp_buf back;
static long code_end;
static const char *label;

static void on_signal(int signal, siginfo_t *info, void *context)
{
    static const int order[] = { REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, REG_RBP,
        REG_RSP, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_EFL };
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    long rip = g[REG_RIP];
    if (signal == SIGSEGV && g[REG_TRAPNO] == 14) {
        printf("%s %llx %lx %lx ", label, g[REG_ERR], (long)info->si_addr, rip);
        for (unsigned i = 0; i < sizeof order / sizeof *order; i++)
            printf("%llx ", g[order[i]]);
        printf("-");
        if (rip >= CODE && rip < code_end)
            for (long at = rip; at < rip + 15 && at < code_end; at++)
                printf("%02x", *(unsigned char *)at);
        printf("\n");
    }
    siglongjmp(back, 1);
}

static void run(const struct form *form, const long *regs, long at)
{
    mprotect((void *)CODE, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    memset((void *)CODE, 0xcc, code_end - CODE);
    for (long i = 0; i < form->end - form->start && at + i < code_end; i++)
        ((char *)at)[i] = form->start[i];
    mprotect((void *)CODE, PAGE, PROT_READ | PROT_EXEC);
    mprotect((void *)(CODE + PAGE), PAGE, code_end > CODE + PAGE ? PROT_READ : PROT_NONE);
    if (!sigsetjmp(back, 1))
        enter_form(regs, (void *)at);
    /* a form may have loaded a segment register */
    __asm__ volatile("mov %0, %%gs" :: "r"(0));
    syscall(SYS_arch_prctl, ARCH_SET_GS, 0x1000L);
    __asm__ volatile("fninit; emms; cld");
}

int main(void)
{
    static char stack[65536], name[64];
    static const long offsets[] = { 0x100, 0, -4, -2, -PAGE + 0x100, PAGE + 0x100, PAGE - 8 };
    stack_t alternate = { .ss_sp = stack, .ss_size = sizeof stack };
    struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    sigaltstack(&alternate, 0);
    for (int signal = 1; signal < 32; signal++)
        if (signal == SIGSEGV || signal == SIGILL || signal == SIGBUS || signal == SIGTRAP
            || signal == SIGFPE || signal == SIGSYS)
            sigaction(signal, &action, 0);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    /* good pages around one bad one; and good pages apart for the other pointers */
    mmap((void *)LOW, 128 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    mmap((void *)CODE, 2 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    long bad = LOW + 16 * PAGE;
    syscall(SYS_arch_prctl, ARCH_SET_GS, 0x1000L);
    for (int prot = 0; prot < 2; prot++) {
        mprotect((void *)bad, PAGE, prot ? PROT_READ : PROT_NONE);
        for (long n = 0; n < form_count; n++) {
            code_end = CODE + PAGE + PAGE;
            for (int pointer = 0; pointer < 6; pointer++) {
                for (unsigned o = 0; o < sizeof offsets / sizeof *offsets; o++) {
                    /* rax rbx rcx rdx rsi rdi rbp rsp r8 .. r15 */
                    long regs[16] = { 7, GOOD, 5, 0, GOOD + 8 * PAGE, GOOD + 16 * PAGE,
                        GOOD + 24 * PAGE, GOOD + 32 * PAGE, 8, 32768 + 9, -32768 };
                    static const int slot[] = { 1, 4, 5, 6, 7, 0 };
                    if (pointer == 5 && !forms[n].rax_pointer)
                        continue;
                    regs[slot[pointer]] = bad + offsets[o];
                    snprintf(name, sizeof name, "%ld %d", n, prot);
                    label = name;
                    run(&forms[n], regs, CODE + 16);
                }
            }
            /* the instruction's own bytes, cut by a page that cannot be executed or read */
            long regs[16] = { 7, GOOD, 5, 0, GOOD + 8 * PAGE, GOOD + 16 * PAGE, GOOD + 24 * PAGE,
                GOOD + 32 * PAGE, 8, 9, -9 };
            code_end = prot ? CODE + 2 * PAGE : CODE + PAGE;
            for (long cut = 0; cut < forms[n].end - forms[n].start; cut++)
                run(&forms[n], regs, CODE + PAGE - cut);
        }
    }
    return 0;
}

/* A plugin of qemu's user mode emulation (plugin API 1, qemu 4.2 to 8.2) that counts the instructions
 * of a program with one thread and, when it ends, writes the number to the file `out=FILE`. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The part of the plugin interface that is needed. */
typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t,
    void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
enum { ADD_U64 = 0 };

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t count;
static char path[4096];

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &count, qemu_plugin_tb_n_insns(block));
}

static void on_exit_of_program(qemu_plugin_id_t id, void *data)
{
  (void)id;
  (void)data;
  FILE *out = fopen(path, "w");
  if (!out || fprintf(out, "%" PRIu64 "\n", count) < 0 || fclose(out))
    perror(path);
}

__attribute__((visibility("default")))
int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
  (void)info;
  if (argc != 1 || strncmp(argv[0], "out=", 4) || strlen(argv[0]) >= sizeof path)
    return -1;
  strcpy(path, argv[0] + 4);
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
  qemu_plugin_register_atexit_cb(id, on_exit_of_program, NULL);
  return 0;
}

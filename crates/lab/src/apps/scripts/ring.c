/* A token goes round all ranks, so many times a second by the clock; each adds its number to it.
   Rank 0 says of each lap when it begins and whether it ended right, to the checker in its guest.

   A rank that waits sleeps a millisecond at a time: MPI's own waiting would keep a processor busy,
   of which this machine has fewer than ranks. */

#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

static const char *CHECKER = "/run/transhume-laps";
static const long NANOSECONDS = 1000000000;

static int words = -1;

static void say(const char *word) {
    struct sockaddr_un checker = {.sun_family = AF_UNIX};
    strcpy(checker.sun_path, CHECKER);
    if (words < 0)
        words = socket(AF_UNIX, SOCK_DGRAM, 0);
    /* A word that is not heard is a lap that does not end. */
    sendto(words, word, strlen(word), 0, (struct sockaddr *)&checker, sizeof checker);
}

static void nap(long nanoseconds) {
    struct timespec time = {.tv_sec = nanoseconds / NANOSECONDS, .tv_nsec = nanoseconds % NANOSECONDS};
    nanosleep(&time, NULL);
}

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * NANOSECONDS + time.tv_nsec;
}

static void receive(long token[2], int from) {
    MPI_Request request;
    int there = 0;
    MPI_Irecv(token, 2, MPI_LONG, from, 0, MPI_COMM_WORLD, &request);
    MPI_Test(&request, &there, MPI_STATUS_IGNORE);
    while (!there) {
        nap(1000000);
        MPI_Test(&request, &there, MPI_STATUS_IGNORE);
    }
}

int main(int count, char **arguments) {
    int rank, ranks;
    long token[2];
    MPI_Init(&count, &arguments);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int before = (rank + ranks - 1) % ranks, behind = (rank + 1) % ranks;
    long interval = NANOSECONDS / (count > 1 && atol(arguments[1]) > 0 ? atol(arguments[1]) : 1);
    long next = now();
    for (long lap = 1;; lap++) {
        if (rank != 0) {
            receive(token, before);
            token[1] += token[0] == lap ? rank : -1;
            MPI_Send(token, 2, MPI_LONG, behind, 0, MPI_COMM_WORLD);
            continue;
        }
        /* Missed turns are not made up for. */
        if (now() < next)
            nap(next - now());
        else
            next = now();
        next += interval;
        say("begin");
        token[0] = lap;
        token[1] = 0;
        MPI_Send(token, 2, MPI_LONG, behind, 0, MPI_COMM_WORLD);
        receive(token, before);
        long sum = (long)ranks * (ranks - 1) / 2;
        say(token[0] == lap && token[1] == sum ? "right" : "wrong");
    }
}
